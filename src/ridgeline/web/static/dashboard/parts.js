// What all cards are made of.
import { html } from '../lib.js';
import { percent } from './format.js';
import { text } from './text.js';

// `terms`: the card's words, each with its one sentence.
export function Card({ id, name, kind = '', terms, children }) {
  return html`
    <section class=${`card ${kind}`} aria-labelledby=${`${id}-name`}>
      <h2 id=${`${id}-name`}>${name}</h2>
      ${children}
      <details class="terms">
        <summary>${text.words}<span class="offscreen">${` (${name})`}</span></summary>
        <dl>${Object.entries(terms).map(([term, meaning]) => html`<dt>${term}</dt><dd>${meaning}</dd>`)}</dl>
      </details>
    </section>
  `;
}

// A share of one thing. What it says stands beside it as text, so the bar itself is mute.
export function Bar({ share, kind = '' }) {
  const width = `${(Math.min(1, Math.max(0, share)) * 100).toFixed(1)}%`;
  return html`<span class=${`bar ${kind}`} aria-hidden="true"><i style=${{ width }}></i></span>`;
}

// Several shares of a whole, with a legend that says the same. `parts`: {kind, name, share, detail}.
export function Stack({ parts }) {
  return html`
    <div class="stack" aria-hidden="true">
      ${parts.map(({ kind, share }) => html`<i key=${kind} class=${`dye ${kind}`} style=${{ width: `${(share * 100).toFixed(2)}%` }}></i>`)}
    </div>
    <ul class="legend">
      ${parts.map(
        ({ kind, name, share, detail }) => html`
          <li key=${kind}><i class=${`swatch dye ${kind}`} aria-hidden="true"></i>${name} <b>${percent(share)}</b>${detail ? html` <span class="soft">${detail}</span>` : null}</li>
        `,
      )}
    </ul>
  `;
}
