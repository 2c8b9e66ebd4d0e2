// What was asked, as plain text, and asking it otherwise.
import { html, signal, useLayoutEffect, useRef, useState } from './lib.js';
import { edit } from './answers.js';
import { CopyButton } from './clipboard.js';
import { Pencil } from './icons.js';
import { answering, sending, session } from './state.js';
import { text } from './text.js';
import { fit, sends, touch } from './typing.js';
import { Versions } from './versions.js';

export const editing = signal(null); // id of the message that is being changed

export function Question({ thread, message, versions, outside }) {
  const open = editing.value === message.id;
  return html`
    <article id=${`message-${message.id}`} class=${outside ? 'question outside' : 'question'} aria-label=${text.you}>
      ${open ? html`<${Editor} key=${message.id} thread=${thread} message=${message} />` : html`<div class="bubble" dir="auto">${message.content}</div>`}
      ${open
        ? null
        : html`
            <footer class="row">
              <span class="tools">
                <${CopyButton} label=${text.copyMessage} value=${() => message.content} quiet />
                <button
                  type="button"
                  class="ghost small edit"
                  aria-label=${text.edit.name}
                  title=${text.edit.name}
                  disabled=${answering.value !== null}
                  onClick=${() => (editing.value = message.id)}
                >
                  <${Pencil} />
                </button>
              </span>
              <${Versions} thread=${thread} message=${message} versions=${versions} />
            </footer>
          `}
    </article>
  `;
}

function Editor({ thread, message }) {
  const box = useRef();
  const [value, setValue] = useState(message.content);
  const limit = session.value?.max_message_characters ?? Infinity;
  const tooLong = value.length > limit;
  const ready = value.trim() && !tooLong && !sending.value && !answering.value;
  useLayoutEffect(() => {
    box.current.focus();
    box.current.setSelectionRange(value.length, value.length);
  }, []);
  useLayoutEffect(() => fit(box.current), [value]);

  function cancel() {
    const place = box.current.closest('article');
    editing.value = null;
    requestAnimationFrame(() => place.querySelector('.edit')?.focus());
  }
  async function save() {
    if (!ready || !(await edit(thread, message, value))) return;
    editing.value = null;
    if (!touch.matches) document.getElementById('message')?.focus();
  }
  function onKeyDown(event) {
    if (event.key === 'Escape' && !event.isComposing) {
      event.stopPropagation(); // it would stop an answer, too
      cancel();
    } else if (sends(event)) {
      event.preventDefault();
      save();
    }
  }
  return html`
    <div class="editor">
      <textarea
        ref=${box}
        rows="1"
        dir="auto"
        value=${value}
        aria-label=${text.edit.box}
        aria-invalid=${tooLong}
        onInput=${(event) => setValue(event.target.value)}
        onKeyDown=${onKeyDown}
      ></textarea>
      ${tooLong ? html`<p class="bad" role="alert">${text.tooLong(value.length, limit)}</p>` : null}
      <p class="buttons">
        <button type="button" class="plain" onClick=${cancel}>${text.cancel}</button>
        <button type="button" class="primary" disabled=${!ready} onClick=${save}>${text.edit.save}</button>
      </p>
    </div>
  `;
}
