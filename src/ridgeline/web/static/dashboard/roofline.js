// The last minute's steps under the roof of the device.
import { html, signal } from '../lib.js';
import { amount, count, number, percent } from './format.js';
import { Card } from './parts.js';
import { decadeBelow, decades, logScale, useWidth } from './scale.js';
import { text } from './text.js';
import { gauge, step } from './values.js';

const KINDS = ['reading', 'writing', 'both'];
const FLOPS = 'FLOP/s';
const HEIGHT = 320;
const SIDES = { left: 58, right: 12, top: 14, bottom: 40 };
const MARKS = {
  reading: (x, y) => `M${x - 3} ${y - 3}h6v6h-6z`,
  writing: (x, y) => `M${x - 3} ${y}a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z`,
  both: (x, y) => `M${x} ${y - 4}l4 7h-8z`,
};

const shown = signal(new Set(KINDS));

export function Roofline({ live }) {
  const words = text.roofline;
  const steps = live.steps.map(step).filter(({ rate, intensity }) => rate > 0 && Number.isFinite(intensity));
  const roofs = roofsOf(live, steps);
  const rows = KINDS.filter((kind) => shown.value.has(kind)).map((kind) => rowOf(kind, steps, roofs.attained)).filter(Boolean);
  return html`
    <${Card} id="roofline" name=${words.name} kind="roofline" terms=${words.terms}>
      <div class="chips" role="group" aria-label=${words.choose}>${KINDS.map((kind) => html`<${Chip} key=${kind} kind=${kind} />`)}</div>
      ${steps.length || roofs.peak
        ? html`<${Plot} steps=${steps.filter(({ kind }) => shown.value.has(kind))} all=${steps} roofs=${roofs} says=${says(live, rows)} />`
        : null}
      ${rows.length ? html`<${Table} rows=${rows} />` : html`<p class="soft">${words.none}</p>`}
    <//>
  `;
}

function Chip({ kind }) {
  const on = shown.value.has(kind);
  function flip() {
    const next = new Set(shown.value);
    if (!next.delete(kind)) next.add(kind);
    shown.value = next;
  }
  return html`
    <button type="button" class=${`chip ${kind}`} aria-pressed=${on} onClick=${flip}>
      <svg class="mark" viewBox="0 0 12 12" aria-hidden="true" focusable="false"><path class=${`points ${kind}`} d=${MARKS[kind](6, 6)} /></svg>
      ${text.roofline.kinds[kind]}
    </button>
  `;
}

// {flops, bytes} per second of a roof; the attained one has its corner at the attained ridge, and
// 19 of 20 steps stay below it.
function roofsOf(live, steps) {
  const [flops, bytes] = [gauge(live, 'peak_flops_per_second'), gauge(live, 'peak_bytes_per_second')];
  const ridge = gauge(live, 'attainable_ridge_point');
  const speeds = steps.map(({ rate, intensity }) => rate / Math.min(intensity, ridge)).sort((a, b) => a - b);
  const speed = speeds[Math.floor(0.95 * speeds.length)];
  return {
    peak: flops && bytes ? { flops, bytes } : null,
    attained: ridge && speed ? { flops: ridge * speed, bytes: speed } : null,
  };
}

const roofAt = ({ flops, bytes }, intensity) => Math.min(flops, bytes * intensity);

function rowOf(kind, steps, roof) {
  const own = steps.filter((one) => one.kind === kind);
  if (!own.length) return null;
  const seconds = (list) => list.reduce((sum, one) => sum + one.seconds, 0);
  const [intensity, rate] = [median(own.map((one) => one.intensity)), median(own.map((one) => one.rate))];
  const ofRoof = roof ? median(own.map((one) => one.rate / roofAt(roof, one.intensity))) : null;
  return { kind, count: own.length, share: seconds(own) / seconds(steps), intensity, rate, ofRoof };
}

const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];

function says(live, rows) {
  const words = text.roofline;
  const each = rows.map((row) => `${words.kinds[row.kind]}: ${words.describe(row.count, row.intensity, amount(row.rate, FLOPS))}.`);
  return words.summary(text.minute(live.recent.seconds), each.join(' '));
}

function Table({ rows }) {
  const words = text.roofline.table;
  return html`
    <div class="wide" tabindex="0" role="region" aria-label=${text.roofline.byKind}>
      <table>
        <thead><tr>${Object.values(words).map((word) => html`<th scope="col">${word}</th>`)}</tr></thead>
        <tbody>
          ${rows.map(
            (row) => html`
              <tr key=${row.kind}>
                <th scope="row">${text.roofline.kinds[row.kind]}</th>
                <td>${count(row.count)}</td><td>${percent(row.share)}</td><td>${number(row.intensity)}</td>
                <td>${amount(row.rate, FLOPS)}</td><td>${row.ofRoof === null ? '' : percent(row.ofRoof)}</td>
              </tr>
            `,
          )}
        </tbody>
      </table>
    </div>
  `;
}

function Plot({ steps, all, roofs, says }) {
  const [element, width] = useWidth(600);
  const { x, y, xs, ys, ends } = axes(all, roofs, width);
  return html`
    <div class="plot" ref=${element}>
      <svg width=${width} height=${HEIGHT} role="img" aria-label=${says}>
        ${xs.map((value) => html`<g key=${`x${value}`}><path class="grid" d=${`M${x(value)} ${SIDES.top}V${HEIGHT - SIDES.bottom}`} /><text x=${x(value)} y=${HEIGHT - SIDES.bottom + 16} text-anchor="middle">${number(value)}</text></g>`)}
        ${ys.map((value) => html`<g key=${`y${value}`}><path class="grid" d=${`M${SIDES.left} ${y(value)}H${width - SIDES.right}`} /><text x=${SIDES.left - 6} y=${y(value) + 4} text-anchor="end">${amount(value, '')}</text></g>`)}
        <text x=${(SIDES.left + width - SIDES.right) / 2} y=${HEIGHT - 6} text-anchor="middle">${text.roofline.across}</text>
        <text class="up" x=${SIDES.left + 6} y=${HEIGHT - SIDES.bottom - 6}>${`↑ ${text.roofline.up}`}</text>
        ${roofs.peak ? html`<${Roof} roof=${roofs.peak} kind="peak" x=${x} y=${y} ends=${ends} />` : null}
        ${roofs.attained ? html`<${Roof} roof=${roofs.attained} kind="attained" x=${x} y=${y} ends=${ends} />` : null}
        ${KINDS.map((kind) => html`<path key=${kind} class=${`points ${kind}`} d=${points(kind, steps, x, y)} />`)}
      </svg>
    </div>
  `;
}

function axes(all, roofs, width) {
  const roof = roofs.peak ?? roofs.attained;
  const ridge = roof.flops / roof.bytes;
  const low = Math.min(ridge / 100, ...all.map((one) => one.intensity));
  const high = Math.max(ridge * 4, ...all.map((one) => one.intensity));
  const [left, right] = [decadeBelow(low), high * 1.5];
  const bottom = decadeBelow(Math.min(roofAt(roof, left), ...all.map((one) => one.rate)));
  const top = Math.max(roof.flops, ...all.map((one) => one.rate)) * 2.5;
  return {
    x: logScale(left, right, SIDES.left, width - SIDES.right),
    y: logScale(bottom, top, HEIGHT - SIDES.bottom, SIDES.top),
    xs: decades(left, right),
    ys: decades(bottom, top),
    ends: [left, right],
  };
}

function Roof({ roof, kind, x, y, ends: [left, right] }) {
  const corner = roof.flops / roof.bytes;
  const line = `M${x(left)} ${y(roofAt(roof, left))}L${x(corner)} ${y(roof.flops)}H${x(right)}`;
  return html`
    <path class=${`roof ${kind}`} d=${line} />
    ${kind === 'peak'
      ? html`
          <text class="says" x=${x(right)} y=${y(roof.flops) - 5} text-anchor="end">${amount(roof.flops, FLOPS)}</text>
          <path class="corner" d=${`M${x(corner)} ${y(roof.flops)}V${HEIGHT - SIDES.bottom}`} />
          <text class="says" x=${x(corner) + 4} y=${HEIGHT - SIDES.bottom - 6}>${text.roofline.ridge(corner)}</text>
        `
      : null}
  `;
}

function points(kind, steps, x, y) {
  return steps
    .filter((one) => one.kind === kind)
    .map((one) => MARKS[kind](Math.round(x(one.intensity) * 10) / 10, Math.round(y(one.rate) * 10) / 10))
    .join('');
}
