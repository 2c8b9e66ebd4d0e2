// A button that copies and says so.
import { html, useRef, useState } from './lib.js';
import { Check, Copy } from './icons.js';
import { status } from './state.js';
import { text } from './text.js';

export async function copy(value) {
  if (navigator.clipboard) return navigator.clipboard.writeText(value);
  // Plain http from another machine has no clipboard interface.
  const box = document.createElement('textarea');
  box.value = value;
  box.className = 'offscreen';
  document.body.append(box);
  box.select();
  document.execCommand('copy');
  box.remove();
  return undefined;
}

export function CopyButton({ label, value, quiet }) {
  const [done, setDone] = useState(false);
  const timer = useRef();
  async function onClick() {
    await copy(value());
    status.value = text.copied;
    setDone(true);
    clearTimeout(timer.current);
    timer.current = setTimeout(() => setDone(false), 1600);
  }
  return html`
    <button type="button" class="ghost small" onClick=${onClick} aria-label=${label} title=${label}>
      ${done ? html`<${Check} />` : html`<${Copy} />`}
      ${quiet ? null : html`<span aria-hidden="true">${done ? text.copied : text.copy}</span>`}
    </button>
  `;
}
