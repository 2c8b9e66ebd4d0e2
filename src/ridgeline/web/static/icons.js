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
export const Search = icon(html`<circle cx="10.5" cy="10.5" r="6" /><path d="M15 15l5 5" />`);
export const Dots = icon(html`<g class="filled" stroke="none"><circle cx="6" cy="12" r="1.6" /><circle cx="12" cy="12" r="1.6" /><circle cx="18" cy="12" r="1.6" /></g>`);
export const Pencil = icon(html`<path d="M5 19l1-4L16 5l3 3L9 18zM13.5 7.500l3 3" />`);
export const Pin = icon(html`<path d="M9 4.500h6l-.8 6 3.3 3v1.500h-11V13.500l3.3-3zM12 15v5" />`);
export const Download = icon(html`<path d="M12 4.500v10M7.5 10.500l4.5 4.5 4.5-4.500M5 19.500h14" />`);
export const Upload = icon(html`<path d="M12 15V4.500M7.5 9l4.5-4.500L16.5 9M5 19.500h14" />`);
export const Exchange = icon(html`<path d="M8 19V5M4 9l4-4 4 4M16 5v14M12 15l4 4 4-4" />`);
export const Keys = icon(html`<rect x="3" y="6.5" width="18" height="11" rx="2" /><path d="M7 10h.01M10.3 10h.01M13.7 10h.01M17 10h.01M8.5 14h7" />`);
export const Gauge = icon(html`<path d="M4 18a9 9 0 1 1 16 0M12 15l4-5" /><circle class="filled" cx="12" cy="15" r="1.2" />`);
export const Sliders = icon(html`<path d="M4 8h8M18 8h2M4 16h2M12 16h8" /><circle cx="15" cy="8" r="2.5" /><circle cx="9" cy="16" r="2.5" />`);
export const Temporary = icon(html`<path d="M12 4.5a7.5 7.5 0 1 1-3.4 14.2L4.5 20l1.3-4.1A7.5 7.5 0 0 1 12 4.5z" stroke-dasharray="3 2.7" />`);
export const Chevron = icon(html`<path d="M7 10l5 5 5-5" />`);
export const Leave = icon(html`<path d="M13 5H6.500v14H13M10.500 12H20M16.500 8.500L20 12l-3.500 3.500" />`);
export const Screen = icon(html`<rect x="3.5" y="5" width="17" height="11.500" rx="2" /><path d="M9 20h6M12 16.500V20" />`);
export const Sun = icon(html`<circle cx="12" cy="12" r="3.800" /><path d="M12 3.500v2M12 18.500v2M3.500 12h2M18.500 12h2M6 6l1.400 1.400M16.600 16.600L18 18M18 6l-1.400 1.400M7.400 16.600L6 18" />`);
export const Moon = icon(html`<path d="M19.500 14.300A8 8 0 0 1 9.700 4.500a8 8 0 1 0 9.800 9.800z" />`);
export const Panel = icon(html`<rect x="3.5" y="5" width="17" height="14" rx="2.5" /><path d="M9.5 5v14" />`);

export const Left = icon(html`<path d="M14 7l-5 5 5 5" />`);
export const Right = icon(html`<path d="M10 7l5 5-5 5" />`);
export const Again = icon(html`<path d="M19 12a7 7 0 1 1-2.200-5.100L19 9M19 4.500V9h-4.500" />`);

export function Logo({ large }) {
  return html`
    <svg class=${large ? 'logo large' : 'logo'} viewBox="0 0 32 32" aria-hidden="true" focusable="false">
      <path d="M2 26L11.5 10l5.2 8 3.8-5.2L30 26" />
      <circle cx="23.5" cy="5.5" r="2.6" />
    </svg>
  `;
}
