// What users feel: how long they wait, and who was turned away.
import { html } from '../lib.js';
import { count, number, seconds } from './format.js';
import { Card } from './parts.js';
import { Spark } from './spark.js';
import { text } from './text.js';
import { gauge, labels, quantiles, rise } from './values.js';

const ANSWERED = ['stop', 'length'];
const NOT_REFUSED = [...ANSWERED, 'cancelled', 'failed'];
const NEXT_TOKEN = 'ridgeline_inter_token_latency_seconds';

export function Speed({ live, past }) {
  const words = text.speed;
  const target = gauge(live, 'inter_token_target_seconds');
  const rows = Object.entries(words.rows)
    .map(([name, label]) => ({ label, found: quantiles(live, name) }))
    .filter(({ found }) => found);
  const lines = [{ kind: 'one', of: ({ quantiles }) => quantiles[NEXT_TOKEN]?.p95 }];
  return html`
    <${Card} id="speed" name=${words.name} terms=${words.terms}>
      ${rows.length ? html`<${Waits} rows=${rows} />` : html`<p class="soft">${words.none(text.minute(live.recent.seconds))}</p>`}
      ${target ? html`<p class="soft">${words.target(target)}</p>` : null}
      <${Spark} name=${words.chart} past=${past} lines=${lines} least=${target ?? 0} show=${seconds} />
    <//>
  `;
}

export function Requests({ live, past }) {
  const words = text.requests;
  const { seconds: span } = live.recent;
  const perSecond = (name) => number(span ? rise(live, name) / span : 0);
  const facts = [
    [words.running, count(gauge(live, 'requests', 'running') ?? 0)],
    [words.waiting, count(gauge(live, 'requests', 'waiting') ?? 0)],
    [words.read, perSecond('prompt_tokens_total')],
    [words.written, perSecond('completion_tokens_total')],
  ];
  const lines = [{ kind: 'one', of: ({ values }) => values['ridgeline_requests{waiting}'] }];
  return html`
    <${Card} id="requests" name=${words.name} terms=${words.terms}>
      <dl class="facts">${facts.map(([name, figure]) => html`<div key=${name}><dt>${name}</dt><dd>${figure}</dd></div>`)}</dl>
      <${Refused} live=${live} />
      <${Spark} name=${words.chart} past=${past} lines=${lines} show=${count} />
    <//>
  `;
}

function Waits({ rows }) {
  return html`
    <table>
      <thead><tr><td></td><th scope="col">${text.speed.half}</th><th scope="col">${text.speed.most}</th></tr></thead>
      <tbody>
        ${rows.map(({ label, found }) => html`<tr key=${label}><th scope="row">${label}</th><td>${seconds(found.p50)}</td><td>${seconds(found.p95)}</td></tr>`)}
      </tbody>
    </table>
  `;
}

function Refused({ live }) {
  const words = text.requests;
  const came = Object.entries(labels(live.recent.counters, 'requests_total')).filter(([, times]) => times > 0);
  const refused = came.filter(([outcome]) => !NOT_REFUSED.includes(outcome));
  const asides = [
    [words.failed, rise(live, 'requests_total', 'failed')],
    [words.cancelled, rise(live, 'requests_total', 'cancelled')],
  ].filter(([, times]) => times);
  return html`
    <h3>${`${words.refused}, ${text.minute(live.recent.seconds)}`}</h3>
    ${refused.length
      ? html`<ul class="refused">${refused.map(([code, times]) => html`<li key=${code}><b>${count(times)}</b> ${words.refusals[code] ?? code}</li>`)}</ul>`
      : html`<p class="soft">${words.noneRefused}</p>`}
    ${asides.length ? html`<p class="soft">${asides.map(([say, times]) => say(times)).join(', ')}</p>` : null}
  `;
}
