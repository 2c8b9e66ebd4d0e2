// Where one writes. What is typed stays until the server has taken it.
import { html, useEffect, useLayoutEffect, useRef } from './lib.js';
import { send, stop } from './answers.js';
import { saveDraft } from './drafts.js';
import { cancelRetry } from './errors.js';
import { Send, Stop } from './icons.js';
import { ErrorCard } from './message.js';
import { answering, draft, drawer, model, notice, sending, session, thread } from './state.js';
import { text } from './text.js';

// On a phone Enter is the only way to a new line.
const touch = matchMedia('(pointer: coarse)');

export function Composer() {
  const box = useRef();
  const value = draft.value;
  const limit = session.value?.max_message_characters ?? Infinity;
  const tooLong = value.length > limit;
  const busy = answering.value !== null;
  const ready = value.trim() && !tooLong && !sending.value && model.value;

  useLayoutEffect(() => {
    box.current.style.height = 'auto';
    box.current.style.height = `${box.current.scrollHeight}px`;
  }, [value]);
  useEffect(() => {
    if (!touch.matches && !drawer.value) box.current.focus();
  }, [thread.value?.id]);

  function onKeyDown(event) {
    if (event.key !== 'Enter' || event.shiftKey || touch.matches) return;
    if (event.isComposing || event.keyCode === 229) return; // the Enter that ends a composition
    event.preventDefault();
    if (ready && !busy) send();
  }
  function onSubmit(event) {
    event.preventDefault();
    if (busy) stop();
    else if (ready) send();
    box.current.focus();
  }
  return html`
    <div class="bottom">
      <${Notice} />
      <form class="composer" onSubmit=${onSubmit}>
        <label class="offscreen" for="message">${text.messageBox}</label>
        <textarea
          id="message"
          ref=${box}
          rows="1"
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
        <button
          type="submit"
          class="round"
          disabled=${!busy && !ready}
          aria-label=${busy ? text.stop : text.send}
          title=${busy ? text.stop : text.send}
        >
          ${busy ? html`<${Stop} />` : html`<${Send} />`}
        </button>
      </form>
      <p id="below-box" class=${tooLong ? 'hint bad' : 'hint'}>
        ${tooLong ? text.tooLong(value.length, limit) : text.hint}
      </p>
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
    giveUp=${cancelRetry}
    close=${() => (notice.value = null)}
  />`;
}
