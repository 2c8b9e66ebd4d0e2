// An error in words, with what to do about it; with a countdown where the page goes on by itself.
import { html, useEffect, useState } from './lib.js';
import { Alert, Clock } from './icons.js';
import { explain, text } from './text.js';

// `run` is called at `retryAt`; without it somebody else goes on then.
export function ErrorCard({ error, retry, retryAt, run, giveUp, label = text.tryAgain, close }) {
  const { title, body } = explain(error);
  const left = useCountdown(retryAt ?? null, run);
  return html`
    <div class=${left === null ? 'card error' : 'card wait'} role="alert">
      ${left === null ? html`<${Alert} />` : html`<${Clock} />`}
      <div>
        <strong>${title}</strong>
        <p>${body}</p>
        ${left === null ? null : html`<p class="countdown" aria-live="off">${text.tryingIn(left)}</p>`}
        <p class="buttons">
          ${retry ? html`<button type="button" class="plain" onClick=${retry}>${left === null ? label : text.tryNow}</button>` : null}
          ${left === null ? null : html`<button type="button" class="ghost" onClick=${giveUp}>${text.dontWait}</button>`}
          ${close && left === null ? html`<button type="button" class="ghost" onClick=${close}>${text.dismiss}</button>` : null}
        </p>
      </div>
    </div>
  `;
}

function useCountdown(until, run) {
  const [now, setNow] = useState(Date.now());
  useEffect(() => {
    if (until === null) return undefined;
    const timer = setInterval(() => {
      setNow(Date.now());
      if (Date.now() < until) return;
      clearInterval(timer);
      run?.();
    }, 250);
    return () => clearInterval(timer);
  }, [until]);
  return until === null ? null : Math.max(0, Math.ceil((until - now) / 1000));
}
