// How many answers share a step, and what ends first when there are more.
import { html } from '../lib.js';
import { count } from './format.js';
import { Bar, Card } from './parts.js';
import { Spark } from './spark.js';
import { text } from './text.js';
import { gauge, labels } from './values.js';

const ORDER = ['kv', 'slots', 'latency', 'ridge'];

export function Batch({ live, past }) {
  const words = text.batch;
  const size = gauge(live, 'batch_size') ?? 0;
  const says = size ? words.tokens(gauge(live, 'batch_tokens'), gauge(live, 'step_limit_tokens')) : words.idle;
  return html`
    <${Card} id="batch" name=${words.name} terms=${words.terms}>
      <p class="figure"><b>${count(size)}</b> ${words.running(size)}</p>
      <p class="soft">${says}</p>
      <${Room} live=${live} size=${size} />
      <${Spark} name=${words.chart} past=${past} lines=${[{ kind: 'one', of: ({ values }) => values.ridgeline_batch_size }]} show=${count} />
    <//>
  `;
}

function Room({ live, size }) {
  const room = labels(live.values, 'headroom_sequences');
  const known = ORDER.filter((what) => what in room);
  if (!known.length) return null;
  const ends = known.filter((what) => what !== 'ridge');
  const first = ends.reduce((least, what) => (room[what] < room[least] ? what : least), ends[0]);
  return html`
    <h3>${text.batch.room}</h3>
    <ul class="rooms">
      ${known.map((what) => html`<${Limit} key=${what} live=${live} what=${what} room=${room[what]} size=${size} first=${what === first} />`)}
    </ul>
    <p class="soft">${ridge(live)}</p>
  `;
}

function Limit({ live, what, room, size, first }) {
  if (room === null) return null; // the ridge is out of reach: said below
  const target = gauge(live, 'inter_token_target_seconds');
  const name = what === 'latency' && target ? text.batch.latency(target) : text.batch.limits[what];
  const reached = what === 'ridge' && room <= 0;
  return html`
    <li class=${first ? 'first' : ''}>
      <span>${name}</span>
      <b>${reached ? text.batch.atRidge : text.batch.more(room)}${first ? html` <span class="tag">${text.batch.first}</span>` : null}</b>
      <${Bar} share=${size + room ? size / (size + room) : 0} />
    </li>
  `;
}

function ridge(live) {
  const batch = gauge(live, 'ridge_batch_sequences');
  if (batch === undefined) return '';
  if (batch !== null) return text.batch.ridge(batch);
  return text.batch.noRidge(gauge(live, 'intensity_limit'), gauge(live, 'attainable_ridge_point'));
}
