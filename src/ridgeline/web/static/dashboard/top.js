// What stands above all pages of figures.
import { Logo } from '../icons.js';
import { html } from '../lib.js';
import { title } from '../text.js';

// `text`: the page's words; `to`: the address of its main part.
export function Top({ text, to, children }) {
  return html`
    <a class="skip" href=${to}>${text.skip}</a>
    <header class="top">
      <span class="brand"><${Logo} />${title}</span>
      <h1>${text.name}</h1>
      <a class="back" href="/">${text.back}</a>
      ${children}
    </header>
  `;
}

// Whether what is shown is of this moment. `there`: whether anything has come yet.
export function State({ text, feed, there }) {
  const lost = feed.trouble.value;
  if (lost) return html`<p class="state lost" role="status">${lost.status === 404 ? text.noMetrics : text.lost(lost.since)}</p>`;
  const hidden = feed.hidden.value;
  return html`<p class=${hidden ? 'state' : 'state on'} role="status">${hidden ? text.paused : there ? text.live : text.waiting}</p>`;
}
