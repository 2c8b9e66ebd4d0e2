// Where one writes. What is typed stays until the server has taken it.
import { html, useEffect, useLayoutEffect, useRef } from './lib.js';
import { send, stop } from './answers.js';
import { ErrorCard } from './card.js';
import { saveDraft } from './drafts.js';
import { cancelRetry } from './errors.js';
import { Send, Stop } from './icons.js';
import { Meter } from './meter.js';
import { editing } from './question.js';
import { answering, draft, drawer, model, notice, sending, session, thread } from './state.js';
import { text } from './text.js';
import { fit, sends, touch } from './typing.js';

export function Composer() {
  const box = useRef();
  const value = draft.value;
  const limit = session.value?.max_message_characters ?? Infinity;
  const tooLong = value.length > limit;
  const busy = answering.value !== null;
  const ready = value.trim() && !tooLong && !sending.value && model.value;

  useLayoutEffect(() => fit(box.current), [value]);
  useEffect(() => {
    if (!touch.matches && !drawer.value) box.current.focus();
  }, [thread.value?.id]);

  function onKeyDown(event) {
    if (event.key === 'ArrowUp' && !value && !busy && !event.isComposing) {
      const asked = thread.value?.messages.value.findLast((message) => message.role === 'user');
      if (!asked) return;
      event.preventDefault();
      editing.value = asked.id;
    } else if (sends(event)) {
      event.preventDefault();
      if (ready && !busy) send();
    }
  }
  function onSubmit(event) {
    event.preventDefault();
    if (busy) stop();
    else if (ready) send();
    // The keyboard of a phone would cover the answer.
    if (touch.matches) box.current.blur();
    else box.current.focus();
  }
  const label = busy ? text.stop : text.send;
  return html`
    <div class="bottom">
      <${Notice} />
      <form class="composer" onSubmit=${onSubmit}>
        <label class="offscreen" for="message">${text.messageBox}</label>
        <textarea
          id="message"
          ref=${box}
          rows="1"
          dir="auto"
          value=${value}
          placeholder=${text.placeholder}
          readonly=${sending.value}
          aria-invalid=${tooLong}
          aria-describedby="below-box"
          enterkeyhint=${touch.matches ? 'enter' : 'send'}
          onInput=${(event) => {
            cancelRetry();
            saveDraft(event.target.value);
          }}
          onKeyDown=${onKeyDown}
        ></textarea>
        <button type="submit" class="round" disabled=${!busy && !ready} aria-label=${label} title=${label}>
          ${busy ? html`<${Stop} />` : html`<${Send} />`}
        </button>
      </form>
      <div class="below">
        <p id="below-box" class=${tooLong || !model.value ? 'hint bad' : 'hint'}>
          ${tooLong ? text.tooLong(value.length, limit) : model.value ? text.hint : text.noModel}
        </p>
        <${Meter} />
      </div>
    </div>
  `;
}

function Notice() {
  const shown = notice.value;
  if (!shown) return null;
  return html`<${ErrorCard}
    key=${shown.error}
    error=${shown.error}
    retry=${shown.retry}
    retryAt=${shown.retryAt}
    run=${shown.retry}
    giveUp=${cancelRetry}
    close=${() => (notice.value = null)}
  />`;
}
