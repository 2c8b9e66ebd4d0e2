// Who holds the KV cache, and how much of the prompts was found in it.
import { html } from '../lib.js';
import { count, percent } from './format.js';
import { Card, Stack } from './parts.js';
import { Spark } from './spark.js';
import { text } from './text.js';
import { labels, rise } from './values.js';

const RESULTS = ['hit', 'cold', 'evicted', 'short'];

export function Kv({ live, past }) {
  const words = text.kv;
  const held = labels(live.values, 'kv_utilization_ratio');
  const tiers = Object.keys(held);
  const idle = labels(live.values, 'kv_idle_ratio');
  const evicted = Object.values(labels(live.recent.counters, 'kv_blocks_evicted_total')).reduce((sum, blocks) => sum + blocks, 0);
  const heldOf = ({ values }) => values['ridgeline_kv_utilization_ratio{device}'];
  const lines = [
    { kind: 'two', of: (sample) => heldOf(sample) + sample.values['ridgeline_kv_idle_ratio{device}'] },
    { kind: 'one', of: heldOf },
  ];
  if (!tiers.length) return html`<${Card} id="kv" name=${words.name} terms=${words.terms}><p class="soft">${text.nothingYet}</p><//>`;
  return html`
    <${Card} id="kv" name=${words.name} terms=${words.terms}>
      <p class="figure"><b>${percent(held[tiers[0]])}</b> ${words.used}</p>
      ${tiers.map((tier) => html`<${Tier} key=${tier} name=${words.tiers[tier] ?? tier} held=${held[tier]} idle=${idle[tier] ?? 0} />`)}
      <p class="soft">${words.evicted(evicted, text.minute(live.recent.seconds))}</p>
      <${Spark} name=${words.chart} past=${past} lines=${lines} least=${1} show=${percent} />
    <//>
  `;
}

function Tier({ name, held, idle }) {
  const parts = [
    { kind: 'running', name: text.kv.running, share: held },
    { kind: 'kept', name: text.kv.idle, share: idle },
    { kind: 'free', name: text.kv.free, share: Math.max(0, 1 - held - idle) },
  ];
  return html`<h3>${name}</h3><${Stack} parts=${parts} />`;
}

export function Prefix({ live }) {
  const words = text.prefix;
  const span = text.minute(live.recent.seconds);
  const tokens = RESULTS.map((result) => rise(live, 'prefix_tokens_total', result));
  const total = tokens.reduce((sum, number) => sum + number, 0);
  const parts = RESULTS.map((kind, place) => ({ kind, name: words.results[kind], share: tokens[place] / total, detail: count(tokens[place]) }));
  const spent = rise(live, 'recompute_seconds_total');
  const preempted = rise(live, 'preemptions_total');
  return html`
    <${Card} id="prefix" name=${words.name} terms=${words.terms}>
      <p class="figure">${total ? html`<b>${percent(tokens[0] / total)}</b> ${words.found}` : words.none(span)}</p>
      ${total ? html`<h3>${words.chart(span)}</h3><${Stack} parts=${parts} />` : null}
      <p class=${spent ? 'cost' : 'soft'}>
        ${spent ? words.cost(spent, span) : words.noCost(span)} ${words.total(live.values.ridgeline_recompute_seconds_total)}
      </p>
      ${live.saved ? html`<p class="soft" data-test="saved">${words.saved(live.saved)}</p>` : null}
      ${preempted ? html`<p class="cost">${words.preempted(preempted, span)}</p>` : null}
    <//>
  `;
}
