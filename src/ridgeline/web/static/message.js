// One message: what was asked as plain text, what was answered as Markdown.
import { Component, html, useEffect, useState } from './lib.js';
import { goOn } from './answers.js';
import { CopyButton } from './clipboard.js';
import { Alert, Clock } from './icons.js';
import { answering } from './state.js';
import { explain, text } from './text.js';

// A block is an object that is made once and never changes, so the same object needs no diffing.
class Block extends Component {
  shouldComponentUpdate(next) {
    return next.block !== this.props.block;
  }

  render({ block }) {
    if (block.kind === 'code') return html`<${Code} block=${block} />`;
    return html`<div class="block" dangerouslySetInnerHTML=${{ __html: block.html }}></div>`;
  }
}

function Code({ block }) {
  return html`
    <figure class="code">
      <figcaption>
        <span>${block.language || text.code}</span>
        <${CopyButton} label=${text.copyCode} value=${() => block.text} />
      </figcaption>
      <pre tabindex="0"><code>${block.text}</code></pre>
    </figure>
  `;
}

export function Question({ message }) {
  return html`
    <article id=${`message-${message.id}`} class="question" aria-label=${text.you}>
      <div class="bubble">${message.content}</div>
    </article>
  `;
}

export function Answer({ thread, message, isLast }) {
  const data = message.data.value;
  const blocks = message.document.blocks.value;
  const streaming = data.status === 'streaming';
  return html`
    <article id=${`message-${message.id}`} class="answer" aria-label=${data.model} aria-busy=${streaming}>
      <div class=${streaming && blocks.length ? 'markdown streaming' : 'markdown'}>
        ${blocks.map((block, index) => html`<${Block} key=${index} block=${block} />`)}
      </div>
      ${streaming && blocks.length === 0 ? html`<${Waiting} />` : null}
      ${message.lost.value ? html`<p class="aside">${text.reconnecting}</p>` : null}
      ${streaming ? null : html`<${Outcome} ...${{ thread, message, data, isLast }} />`}
      ${streaming ? null : html`<${Footer} ...${{ message, data }} />`}
    </article>
  `;
}

function Waiting() {
  return html`<p class="waiting"><span class="offscreen">${text.thinking}</span><i></i><i></i><i></i></p>`;
}

function Outcome({ thread, message, data, isLast }) {
  const again = () => goOn(thread, message);
  const canGoOn = isLast && !answering.value;
  if (data.status === 'stopped') {
    return html`<p class="aside">${text.stopped}${canGoOn ? html`<${Again} label=${text.goOn} run=${again} />` : null}</p>`;
  }
  if (data.error) {
    return html`<${ErrorCard}
      error=${data.error}
      retryAt=${isLast ? message.retryAt.value : null}
      retry=${canGoOn ? again : null}
      label=${data.content ? text.goOn : text.tryAgain}
      giveUp=${() => (message.retryAt.value = null)}
    />`;
  }
  if (data.finish === 'length') {
    return html`<p class="aside">${text.cutOff}${canGoOn ? html`<${Again} label=${text.goOn} run=${again} />` : null}</p>`;
  }
  return null;
}

function Again({ label, run }) {
  return html`<button type="button" class="link" onClick=${run}>${label}</button>`;
}

function Footer({ message, data }) {
  if (!data.content) return null;
  const usage = data.usage;
  const facts = [];
  if (usage) {
    if (usage.tokens_per_second) facts.push(text.rate(usage.tokens_per_second));
    facts.push(text.tokens(usage.completion_tokens));
    if (usage.prompt_tokens !== null) facts.push(text.cached(usage.cached_tokens, usage.prompt_tokens));
  }
  return html`
    <footer>
      <${CopyButton} label=${text.copyAnswer} value=${() => message.content} quiet />
      <span class="facts">${facts.map((fact) => html`<span>${fact}</span>`)}</span>
    </footer>
  `;
}

// An error in words, with what to do; goes on by itself at `retryAt`.
export function ErrorCard({ error, retry, retryAt, giveUp, label = text.tryAgain, close }) {
  const { title, body } = explain(error);
  const left = useCountdown(retry ? retryAt : null, retry);
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
      if (Date.now() >= until) {
        clearInterval(timer);
        run();
      }
    }, 250);
    return () => clearInterval(timer);
  }, [until]);
  return until === null ? null : Math.max(0, Math.ceil((until - now) / 1000));
}
