// The dashboard as a whole.
import '../appearance.js';
import { html, render, signal } from '../lib.js';
import { Login } from '../login.js';
import { Batch } from './batch.js';
import { Device } from './device.js';
import { feed, models, past } from './feed.js';
import { Kv, Prefix } from './memory.js';
import { Predictions } from './predictions.js';
import { Roofline } from './roofline.js';
import { Requests, Speed } from './speed.js';
import { text } from './text.js';
import { State, Top } from './top.js';
import { Verdict } from './verdict.js';

const chosen = signal(null);

function App() {
  if (feed.needsKey.value) return html`<${Login} login=${feed.login} failed=${feed.keyFailed.value} />`;
  const names = Object.keys(models.value ?? {});
  const name = names.includes(chosen.value) ? chosen.value : names[0];
  return html`
    <${Top} text=${text} to="#figures"><${State} text=${text} feed=${feed} there=${models.value} /><//>
    <main id="figures" class="dashboard" tabindex="-1">
      <${Models} names=${names} shown=${name} />
      ${name ? html`<${Figures} key=${name} live=${models.value[name]} past=${past.value[name]} />` : html`<${Nothing} />`}
    </main>
  `;
}

function Nothing() {
  if (feed.trouble.value) return null;
  return html`<p class="empty">${models.value ? text.noModels : text.waiting}</p>`;
}

function Models({ names, shown }) {
  if (names.length < 2) return names.length ? html`<p class="model-name">${names[0]}</p>` : null;
  return html`
    <div class="chips" role="group" aria-label=${text.models}>
      ${names.map(
        (name) => html`
          <button type="button" class="chip" key=${name} aria-pressed=${name === shown} onClick=${() => (chosen.value = name)}>${name}</button>
        `,
      )}
    </div>
  `;
}

function Figures({ live, past }) {
  return html`
    <details class="intro">
      <summary>${text.intro.name}</summary>
      ${text.intro.body.map((paragraph) => html`<p>${paragraph}</p>`)}
    </details>
    <div class="cards">
      <${Verdict} live=${live} />
      <${Batch} live=${live} past=${past} />
      <${Kv} live=${live} past=${past} />
      <${Prefix} live=${live} />
      <${Device} live=${live} past=${past} />
      <${Speed} live=${live} past=${past} />
      <${Requests} live=${live} past=${past} />
      <${Roofline} live=${live} />
      <${Predictions} live=${live} />
    </div>
  `;
}

const root = document.getElementById('app');
root.replaceChildren(); // what stood there while the page was on its way
render(html`<${App} />`, root);
feed.start();
