// Regions, their clusters, and how each replica is.
import { count, percent } from '../dashboard/format.js';
import { Bar, Card } from '../dashboard/parts.js';
import { html, useState } from '../lib.js';
import { text } from './text.js';

const SHOWN = 12; // a larger cluster is drawn when somebody opens it

export function Replicas({ now }) {
  const words = text.replicas;
  return html`
    <${Card} id="replicas" name=${words.name} kind="replicas" terms=${words.terms}>
      ${now.regions.map((region) => html`<${Region} key=${region.name} region=${region} now=${now} />`)}
    <//>
  `;
}

function Region({ region, now }) {
  const words = text.replicas;
  const inside = (list, cluster) => list.filter((each) => each.region === region.name && each.cluster === cluster.name);
  return html`
    <section class="region" aria-label=${region.name}>
      <h3>${region.name} <span class="soft">${region.name === now.region ? words.here : words.away(region.round_trip_seconds)}</span></h3>
      ${region.clusters.map(
        (cluster) => html`<${Cluster} key=${cluster.name} cluster=${cluster} replicas=${inside(now.replicas, cluster)} absent=${inside(now.absent, cluster)} />`,
      )}
      ${region.clusters.length ? null : html`<p class="soft">${words.noClusters}</p>`}
    </section>
  `;
}

function Cluster({ cluster, replicas, absent }) {
  const words = text.replicas;
  const [open, setOpen] = useState(replicas.length <= SHOWN);
  const [running, slots] = ['running', 'slots'].map((what) => replicas.reduce((sum, each) => sum + each[what], 0));
  const states = replicas.map((each) => stateOf(each).kind);
  const odd = ['alone', 'cordoned', 'draining', 'starting'].map((kind) => [kind, states.filter((each) => each === kind).length]);
  odd.push(['blind', replicas.filter((each) => each.missing_metrics.length).length], ['absent', absent.length]);
  return html`
    <details class="cluster" open=${open} onToggle=${(event) => setOpen(event.currentTarget.open)}>
      <summary>
        <h4>${cluster.name}</h4>${' '}
        <span class="soft">${words.cluster(cluster, replicas.length)}${slots ? ` · ${words.batch(running, slots)}` : ''}</span>
        ${odd.filter(([, times]) => times).map(([kind, times]) => html`<span key=${kind} class=${`tag ${LOOKS[kind]}`}>${count(times)} ${words.states[kind]}</span>`)}
      </summary>
      ${open
        ? html`
            <ul class="list">
              ${replicas.map((replica) => html`<${Replica} key=${replica.id} replica=${replica} />`)}
              ${absent.map(({ id }) => html`<li key=${id} class="replica gone"><${Who} id=${id} kind="absent" /><p class="soft">${words.absent}</p></li>`)}
            </ul>
            ${replicas.length + absent.length ? null : html`<p class="soft">${words.empty}</p>`}
          `
        : null}
    </details>
  `;
}

// What is worst about it.
function stateOf(replica) {
  if (replica.state !== 'up') return { kind: replica.state };
  if (replica.breaker_open) return { kind: 'alone', note: text.replicas.alone(replica.faults, replica.left_alone_seconds) };
  if (replica.full) return { kind: 'full' };
  if (replica.places < replica.slots) return { kind: 'starting', note: text.replicas.starting(replica.places) };
  return { kind: 'up' };
}

const LOOKS = { up: 'good', starting: 'few', full: '', cordoned: '', draining: '', alone: 'bad', blind: 'bad', absent: 'bad' };

function Who({ id, kind }) {
  return html`<p class="who"><b>${id}</b> <span class=${`tag ${LOOKS[kind]}`}>${text.replicas.states[kind]}</span></p>`;
}

function Replica({ replica }) {
  const words = text.replicas;
  const { returns, missing_metrics: missing } = replica;
  const { kind, note } = stateOf(replica);
  return html`
    <li class="replica">
      <${Who} id=${replica.id} kind=${kind} />
      <dl>
        <${Share} name=${words.columns.batch} says=${words.of(replica.running, replica.slots)} share=${replica.slots ? replica.running / replica.slots : 0} />
        ${replica.kv_told
          ? html`<${Share} name=${words.columns.kv} says=${percent(replica.kv_held)} note=${replica.kv_tokens && words.room(replica.kv_tokens)} share=${replica.kv_held} kind="two" />`
          : html`<${Fact} name=${words.columns.kv} says="-" note=${words.kvUntold} />`}
        <${Fact} name=${words.columns.told} says=${replica.told_seconds_ago === null ? '-' : words.ago(replica.told_seconds_ago)} note=${replica.told_seconds_ago === null && words.neverTold} />
        <${Fact} name=${words.columns.sent} says=${count(returns.sent)} note=${words.back(returns)} />
        <${Fact} name=${words.columns.rate} says=${words.rate(replica.prefill_tokens_per_second)} />
      </dl>
      ${note ? html`<p class=${kind === 'alone' ? 'bad note' : 'soft note'}>${note}</p>` : null}
      ${missing.length ? html`<p class="bad note">${words.missing(missing)}</p>` : null}
    </li>
  `;
}

function Fact({ name, says, note }) {
  return html`<div><dt>${name}</dt><dd>${says}${note ? html` <small>${note}</small>` : null}</dd></div>`;
}

function Share({ name, says, note, share, kind = '' }) {
  return html`<div><dt>${name}</dt><dd>${says}${note ? html` <small>${note}</small>` : null}<${Bar} share=${share} kind=${kind} /></dd></div>`;
}
