// A few minutes of one or two figures as lines.
import { html } from '../lib.js';
import { text } from './text.js';

const LEAST_MS = 60_000;
const GAP_MS = 5000; // longer without a sample, and the line is broken
const HEIGHT = 40;

// `lines`: {kind, of: (sample) => number or nothing}; `show` writes the number at the top.
export function Spark({ name, past, lines, least = 0, show }) {
  const end = past.at(-1).at;
  const span = Math.max(LEAST_MS, end - past[0].at);
  const values = lines.flatMap(({ of }) => past.map(of)).filter(Number.isFinite);
  const top = Math.max(least, ...values);
  const x = (at) => 100 - ((end - at) / span) * 100;
  const y = (value) => HEIGHT - (top ? value / top : 0) * HEIGHT;
  return html`
    <figure class="spark">
      <figcaption><span>${name}</span><span>${values.length ? show(top) : ''}</span></figcaption>
      <svg viewBox=${`0 -1 100 ${HEIGHT + 2}`} preserveAspectRatio="none" aria-hidden="true" focusable="false">
        <path class="ground" d=${`M0 ${HEIGHT}H100`} />
        ${lines.map(({ kind, of }) => html`<path key=${kind} class=${`line ${kind}`} d=${path(past, of, x, y)} />`)}
      </svg>
      <div class="times" aria-hidden="true"><span>${text.ago(span / 1000)}</span><span>${text.now}</span></div>
    </figure>
  `;
}

function path(past, of, x, y) {
  let before = null;
  let drawn = '';
  for (const sample of past) {
    const value = of(sample);
    if (!Number.isFinite(value)) {
      before = null;
      continue;
    }
    const joined = before !== null && sample.at - before <= GAP_MS;
    drawn += `${joined ? 'L' : 'M'}${x(sample.at).toFixed(2)} ${y(value).toFixed(2)}`;
    before = sample.at;
  }
  return drawn;
}
