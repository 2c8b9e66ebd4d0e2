// How busy the device is, beside how much of it is used: the first says little about the second.
import { html } from '../lib.js';
import { amount, percent } from './format.js';
import { Bar, Card } from './parts.js';
import { Spark } from './spark.js';
import { text } from './text.js';
import { gauge } from './values.js';

const shareOf = (values) => values.ridgeline_arithmetic_intensity / values.ridgeline_ridge_point;

export function Device({ live, past }) {
  const words = text.device;
  const busy = gauge(live, 'device_busy_ratio') ?? 0;
  const share = shareOf(live.values);
  const misleads = live.verdict.is_busy_but_empty;
  const rows = [
    { name: words.busy, share: busy, kind: 'two' },
    { name: words.intensity, share, kind: 'one', detail: detail(live) },
    { name: words.flops, share: gauge(live, 'flops_utilization_ratio'), kind: 'one', detail: peak(live, 'flops', 'FLOP/s') },
    { name: words.bytes, share: gauge(live, 'bandwidth_utilization_ratio'), kind: 'one', detail: peak(live, 'bytes', 'B/s') },
  ].filter((row) => Number.isFinite(row.share));
  const lines = [
    { kind: 'two', of: ({ values }) => values.ridgeline_device_busy_ratio },
    { kind: 'one', of: ({ values }) => Math.min(1, shareOf(values)) },
  ];
  return html`
    <${Card} id="device" name=${words.name} terms=${words.terms}>
      <ul class="shares">
        ${rows.map(
          (row) => html`
            <li key=${row.name}>
              <span>${row.name}</span><b>${percent(row.share)}</b>
              <${Bar} share=${row.share} kind=${row.kind} />
              ${row.detail ? html`<small>${row.detail}</small>` : null}
            </li>
          `,
        )}
      </ul>
      <p class=${misleads ? 'cost' : 'soft'}>${misleads ? words.misleads : words.plain}</p>
      ${gauge(live, 'peak_flops_per_second') ? null : html`<p class="soft">${words.unknown}</p>`}
      <${Spark} name=${words.chart} past=${past} lines=${lines} least=${1} show=${percent} />
    <//>
  `;
}

function detail(live) {
  const ridge = gauge(live, 'ridge_point');
  return ridge ? text.device.of(gauge(live, 'arithmetic_intensity'), ridge) : null;
}

function peak(live, what, unit) {
  const value = gauge(live, `peak_${what}_per_second`);
  return value ? text.device.peak(amount(value, unit)) : null;
}
