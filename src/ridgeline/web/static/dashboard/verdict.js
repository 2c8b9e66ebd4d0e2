// What binds now, in big words, and what bound the last minute.
import { html } from '../lib.js';
import { Card, Stack } from './parts.js';
import { text } from './text.js';
import { labels } from './values.js';

export function Verdict({ live }) {
  const { resource, headline, reason, advice } = live.verdict;
  const words = text.verdict;
  return html`
    <${Card} id="verdict" name=${words.name} kind=${`verdict ${resource}`} terms=${words.terms}>
      <div class="verdict-words">
        <div>
          <p class="headline" role="status">${headline}</p>
          <p>${reason}</p>
        </div>
        <div>
          <h3>${words.advice}</h3>
          <p>${advice}</p>
        </div>
      </div>
      <${Bound} live=${live} />
    <//>
  `;
}

function Bound({ live }) {
  const spent = labels(live.recent.counters, 'bound_seconds_total');
  const total = Object.values(spent).reduce((sum, seconds) => sum + seconds, 0);
  if (!total) return null;
  const parts = Object.entries(spent)
    .filter(([, seconds]) => seconds / total >= 0.005)
    .map(([resource, seconds]) => ({ kind: resource, name: text.verdict.resources[resource] ?? resource, share: seconds / total }));
  return html`
    <h3>${text.verdict.bound(text.minute(live.recent.seconds))}</h3>
    <${Stack} parts=${parts} />
  `;
}
