// Dialogs: one at a time, modal, closed by Esc or a click beside them; focus then goes back.
import { keepFocus } from './focus.js';
import { html, signal, useLayoutEffect, useRef } from './lib.js';
import { Close } from './icons.js';
import { text } from './text.js';

export const dialog = signal(null); // the name of the one that is open

let opener = null;

export function openDialog(name) {
  // One that takes another's place leaves focus to where the first was opened from.
  if (!dialog.value) opener = document.activeElement;
  dialog.value = name;
}

export function closeDialog() {
  dialog.value = null;
}

export function Dialog({ title, label, kind = '', children }) {
  const box = useRef();
  const pressed = useRef(false);
  useLayoutEffect(() => {
    const shown = box.current;
    const from = opener;
    shown.showModal();
    shown.querySelector('[autofocus]')?.focus();
    return () => {
      shown.close();
      if (!dialog.value) keepFocus(() => from);
    };
  }, []);
  // One that has given way to another says that it is closed after that one is open.
  const onClose = () => box.current && closeDialog();
  // A selection that is drawn from inside to outside ends on the backdrop, but is no click on it.
  const onPointerDown = (event) => (pressed.current = event.target === box.current);
  const onClick = (event) => {
    if (pressed.current && event.target === box.current) closeDialog();
  };
  return html`
    <dialog
      ref=${box}
      class=${`dialog ${kind}`}
      aria-labelledby=${title ? 'dialog-title' : null}
      aria-label=${title ? null : label}
      onClose=${onClose}
      onPointerDown=${onPointerDown}
      onClick=${onClick}
    >
      <div class="sheet">
        ${title
          ? html`
              <div class="dialog-head">
                <h2 id="dialog-title">${title}</h2>
                <button type="button" class="ghost" aria-label=${text.close} title=${text.close} onClick=${closeDialog}><${Close} /></button>
              </div>
            `
          : null}
        ${children}
      </div>
    </dialog>
  `;
}
