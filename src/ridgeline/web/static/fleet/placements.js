// Where the latest requests went, and why.
import { seconds } from '../dashboard/format.js';
import { Card } from '../dashboard/parts.js';
import { html } from '../lib.js';
import { text } from './text.js';

const LOOKS = { sent: 'few', answering: 'few', answered: 'good', full: '', fault: 'bad', left: 'few' };

export function Placements({ placements }) {
  const words = text.placements;
  return html`
    <${Card} id="placements" name=${words.name} kind="placements" terms=${words.terms}>
      ${placements.length ? null : html`<p class="soft">${words.none}</p>`}
      <ol class="events">${placements.map((each) => html`<${Placed} key=${`${each.request} ${each.attempt}`} placed=${each} />`)}</ol>
      <p class="soft">${words.more} <a href="/explain">${words.explain}</a></p>
    <//>
  `;
}

function Placed({ placed }) {
  const words = text.placements;
  return html`
    <li>
      <time class="at" datetime=${new Date(placed.at_seconds * 1000).toISOString()}>${words.at(placed.at_seconds)}</time>
      <div>
        <p><b>${placed.model}</b> ${words.to} <b>${placed.replica}</b> <span class=${`tag ${LOOKS[placed.outcome]}`}>${words.outcomes[placed.outcome]}</span></p>
        <p>${placed.why}</p>
        <p class="soft">${came(placed)}<code>${placed.request}</code></p>
      </div>
    </li>
  `;
}

function came({ first_token_seconds: took, expected_seconds: expected, found_tokens: found, cached_tokens: believed }) {
  const words = text.placements;
  const parts = [];
  if (took !== null) parts.push(words.took(seconds(took), seconds(expected)));
  if (found !== null) parts.push(words.found(found, believed));
  return parts.length ? `${parts.join(' ')} ` : '';
}
