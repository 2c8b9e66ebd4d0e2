// One answer of a request.
import { percent, seconds } from '../dashboard/format.js';
import { html } from '../lib.js';
import { text } from './text.js';

const ORDER = Object.keys(text.phases);

export function Answer({ id, answer, several }) {
  const total = answer.total_seconds;
  const going = answer.state === 'waiting' || answer.state === 'running';
  const name = `answer-${id}-${answer.index}`;
  return html`
    <article class="card told" aria-labelledby=${name}>
      <h3 id=${name}>
        ${several ? `${text.answer(answer.index)}: ` : ''}${(going ? text.soFar : text.where)(total)}
        <span class=${`tag ${answer.state === 'refused' ? 'bad' : going ? 'few' : 'good'}`}>${text.states[answer.state]}</span>
      </h3>
      <${Phases} answer=${answer} total=${total} />
      ${answer.advice.length
        ? html`<div class="advice"><h4>${text.advice}</h4>${answer.advice.map((says) => html`<p key=${says}>${says}</p>`)}</div>`
        : null}
      <h4>${text.events}</h4>
      <ol class="events">
        ${answer.events.map((event, place) => html`<${Happened} key=${place} event=${event} omitted=${place === Math.floor(answer.events.length / 2) ? answer.omitted_events : 0} />`)}
      </ol>
    </article>
  `;
}

// A row for each phase, drawn to one scale; what a bar says stands beside it as text.
function Phases({ answer, total }) {
  const shown = ORDER.filter((phase) => answer.spent_seconds[phase]);
  return html`
    <ul class="phases">
      ${shown.map((phase) => {
        const spent = answer.spent_seconds[phase];
        return html`
          <li key=${phase} title=${text.phases[phase].meaning}>
            <span>${text.phases[phase].name}</span>
            <b>${seconds(spent)} <small>${percent(spent / total)}</small></b>
            <span class="track" aria-hidden="true">
              ${answer.phases.filter((stretch) => stretch.phase === phase).map((stretch) => html`<i key=${stretch.from_seconds} class=${`dye ${phase}`} style=${placed(stretch, total)}></i>`)}
            </span>
          </li>
        `;
      })}
    </ul>
  `;
}

const share = (part, total) => `${((100 * part) / total).toFixed(3)}%`;

const placed = (stretch, total) => ({
  left: share(stretch.from_seconds, total),
  width: share(stretch.to_seconds - stretch.from_seconds, total),
});

function Happened({ event, omitted }) {
  return html`
    <li class=${event.event}>
      <span class="at">${seconds(Math.max(0, event.at_seconds))}</span>
      <p>${event.says}</p>
      ${omitted ? html`<p class="soft omitted">${text.omitted(omitted)}</p>` : null}
    </li>
  `;
}
