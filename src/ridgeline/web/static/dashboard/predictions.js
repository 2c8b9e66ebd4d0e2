// What the server foresaw, against what came.
import { html } from '../lib.js';
import { count, seconds } from './format.js';
import { Card } from './parts.js';
import { decadeAbove, decadeBelow, logScale } from './scale.js';
import { text } from './text.js';

const SIZE = 120;
const UNITS = { cached_tokens: count };

export function Predictions({ live }) {
  const words = text.predictions;
  const kinds = Object.keys(words.kinds).filter((kind) => live.predictions[kind]);
  return html`
    <${Card} id="predictions" name=${words.name} kind="predictions" terms=${words.terms}>
      ${kinds.length ? null : html`<p class="soft">${words.none}</p>`}
      ${kinds.length ? html`<p class="soft">${words.points}</p>` : null}
      <div class="kinds">${kinds.map((kind) => html`<${Kind} key=${kind} kind=${kind} told=${live.predictions[kind]} />`)}</div>
    <//>
  `;
}

function Kind({ kind, told }) {
  const words = text.predictions;
  const { calibration, tolerated, pairs } = told;
  const { judgement } = calibration;
  return html`
    <div class="kind">
      <h3>${words.kinds[kind]}</h3>
      <div class="kind-body">
        <${Scatter} told=${told} show=${UNITS[kind] ?? seconds} says=${words.scatter(pairs.length)} />
        <p>
          <span class=${`tag ${judgement}`}>${words[judgement]}</span><br />
          ${words.off(calibration.median_error, tolerated)} ${words.high(calibration.high_error)} ${words.bias(calibration.bias)} <span class="soft">${words.count(calibration.count)}</span>
        </p>
      </div>
    </div>
  `;
}

function Scatter({ told, show, says }) {
  const { pairs, least, tolerated } = told;
  const low = decadeBelow(Math.max(least, Math.min(...pairs.flat())));
  const high = Math.max(decadeAbove(Math.max(...pairs.flat())), low * 10);
  const scale = logScale(low, high, 6, SIZE - 6);
  const place = (value) => scale(Math.min(high, Math.max(low, value)));
  const x = place;
  const y = (value) => SIZE - place(value);
  const band = (factor) => `M${x(low)} ${y(low * factor)}L${x(high / Math.max(1, factor))} ${y(high * Math.min(1, factor))}`;
  const dots = pairs.map(([foreseen, came]) => `M${x(came).toFixed(1)} ${y(foreseen).toFixed(1)}h.01`).join('');
  return html`
    <figure class="scatter">
      <svg viewBox=${`0 0 ${SIZE} ${SIZE}`} role="img" aria-label=${says}>
        <rect class="ground" x="0.5" y="0.5" width=${SIZE - 1} height=${SIZE - 1} />
        <path class="roof" d=${band(1)} />
        <path class="roof attained" d=${band(1 + tolerated) + band(1 - tolerated)} />
        <path class="dots" d=${dots} />
      </svg>
      <figcaption><span>${show(low)}</span><span>${show(high)}</span></figcaption>
    </figure>
  `;
}
