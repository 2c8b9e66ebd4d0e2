// The fleet as a whole.
import '../appearance.js';
import { count, number, percent } from '../dashboard/format.js';
import { Bar, Card } from '../dashboard/parts.js';
import { State, Top } from '../dashboard/top.js';
import { html, render } from '../lib.js';
import { Login } from '../login.js';
import { feed, fleet } from './feed.js';
import { Placements } from './placements.js';
import { Replicas } from './replicas.js';
import { text } from './text.js';

function App() {
  if (feed.needsKey.value) return html`<${Login} login=${feed.login} failed=${feed.keyFailed.value} words=${text.login} />`;
  return html`
    <${Top} text=${text} to="#figures"><${State} text=${text} feed=${feed} there=${fleet.value} /><//>
    <main id="figures" class="dashboard fleet" tabindex="-1">
      ${fleet.value ? html`<${Figures} now=${fleet.value} />` : feed.trouble.value ? null : html`<p class="empty">${text.waiting}</p>`}
    </main>
  `;
}

function Figures({ now }) {
  return html`
    <details class="intro">
      <summary>${text.intro.name}</summary>
      ${text.intro.body.map((paragraph) => html`<p>${paragraph}</p>`)}
    </details>
    <div class="cards">
      <${Door} now=${now} />
      <${Cached} now=${now} />
      <${Replicas} now=${now} />
      <${Placements} placements=${now.placements} />
    </div>
  `;
}

function Door({ now }) {
  const words = text.door;
  const { seconds, requests, refused } = now.last_minute;
  const refusals = Object.entries(refused);
  const facts = [
    [words.waiting, count(now.waiting)],
    [words.rate, number(requests ? requests / Math.max(1, seconds) : 0)],
    [words.running, count(now.replicas.reduce((sum, { running }) => sum + running, 0))],
    [words.refused, count(refusals.reduce((sum, [, times]) => sum + times, 0))],
  ];
  return html`
    <${Card} id="door" name=${words.name(now.region)} terms=${words.terms}>
      <dl class="facts">${facts.map(([name, figure]) => html`<div key=${name}><dt>${name}</dt><dd>${figure}</dd></div>`)}</dl>
      ${refusals.length
        ? html`<ul class="refused">${refusals.map(([code, times]) => html`<li key=${code}><b>${count(times)}</b> ${words.refusals[code] ?? code}</li>`)}</ul>`
        : null}
    <//>
  `;
}

function Cached({ now }) {
  const words = text.cached;
  const { prompt, believed, found } = now.cached_tokens;
  const rows = [
    ['believed', believed],
    ['found', found],
  ];
  return html`
    <${Card} id="cached" name=${words.name} terms=${words.terms}>
      ${prompt
        ? html`
            <ul class="shares">
              ${rows.map(
                ([kind, tokens]) => html`
                  <li key=${kind}>
                    <span>${words[kind]}</span><b>${percent(tokens / prompt)}</b>
                    <${Bar} share=${tokens / prompt} kind=${kind === 'believed' ? 'two' : ''} />
                    <small>${words.tokens(tokens, prompt)}</small>
                  </li>
                `,
              )}
            </ul>
            <p class="soft">${words.off(believed - found)}</p>
          `
        : html`<p class="soft">${words.none}</p>`}
    <//>
  `;
}

const root = document.getElementById('app');
root.replaceChildren(); // what stood there while the page was on its way
render(html`<${App} />`, root);
feed.start();
