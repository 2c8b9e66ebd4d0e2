// Line icons, drawn on a 24 x 24 grid.
import { html } from './lib.js';

const icon = (paths) => () => html`
  <svg class="icon" viewBox="0 0 24 24" aria-hidden="true" focusable="false">${paths}</svg>
`;

export const Plus = icon(html`<path d="M12 5v14M5 12h14" />`);
export const Menu = icon(html`<path d="M4 7h16M4 12h16M4 17h10" />`);
export const Close = icon(html`<path d="M6 6l12 12M18 6L6 18" />`);
export const Trash = icon(html`<path d="M5 7h14M10 7V5h4v2M7 7l1 12h8l1-12M10.5 11v4.5M13.5 11v4.5" />`);
export const Send = icon(html`<path d="M12 19V6M6 11.5L12 5.5l6 6" />`);
export const Stop = icon(html`<rect class="filled" x="7" y="7" width="10" height="10" rx="2" />`);
export const Down = icon(html`<path d="M12 5v13M6 12.5l6 6 6-6" />`);
export const Copy = icon(html`<rect x="9" y="9" width="10" height="10" rx="2" /><path d="M15 9V7a2 2 0 0 0-2-2H7a2 2 0 0 0-2 2v6a2 2 0 0 0 2 2h2" />`);
export const Check = icon(html`<path d="M5 12.5l4.5 4.5L19 7.5" />`);
export const Alert = icon(html`<circle cx="12" cy="12" r="8.5" /><path d="M12 8v4.5M12 15.800v.2" />`);
export const Clock = icon(html`<circle cx="12" cy="12" r="8.5" /><path d="M12 7.5V12l3 2" />`);

export function Logo({ large }) {
  return html`
    <svg class=${large ? 'logo large' : 'logo'} viewBox="0 0 32 32" aria-hidden="true" focusable="false">
      <path d="M2 26L11.5 10l5.2 8 3.8-5.2L30 26" />
      <circle cx="23.5" cy="5.5" r="2.6" />
    </svg>
  `;
}
