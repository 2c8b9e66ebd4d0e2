// What became of one request: where its time went, as bars, and what happened, in sentences.
import '../appearance.js';
import { Top } from '../dashboard/top.js';
import { html, render, useEffect, useState } from '../lib.js';
import { Login } from '../login.js';
import { asked, asking, explain, found, keyFailed, login, needsKey, start, trouble } from './feed.js';
import { Answer } from './answer.js';
import { text } from './text.js';

function App() {
  if (needsKey.value) return html`<${Login} login=${login} failed=${keyFailed.value} />`;
  return html`
    <${Top} text=${text} to="#told" />
    <main class="dashboard explain">
      <${Question} />
      <div id="told" tabindex="-1">
        <p class="said" role="status">${said()}</p>
        ${found.value?.requests.map((request) => html`<${Request} key=${request.id} request=${request} />`)}
      </div>
    </main>
  `;
}

function said() {
  if (trouble.value) return trouble.value.status ? trouble.value.message : text.unreachable;
  return asking.value && !found.value ? text.asking : '';
}

function Question() {
  const [id, setId] = useState(asked.value);
  useEffect(() => setId(asked.value), [asked.value]);
  function onSubmit(event) {
    event.preventDefault();
    if (id.trim()) explain(id.trim());
  }
  return html`
    <form class="ask" onSubmit=${onSubmit}>
      <label for="id">${text.form.label}</label>
      <input
        id="id"
        type="text"
        value=${id}
        required
        autofocus=${!id}
        autocomplete="off"
        autocapitalize="off"
        spellcheck="false"
        aria-describedby="id-hint"
        onInput=${(event) => setId(event.target.value)}
      />
      <button type="submit" class="primary">${text.form.submit}</button>
      <p id="id-hint" class="soft">${text.form.hint}</p>
    </form>
  `;
}

function Request({ request }) {
  const several = request.answers.length > 1;
  return html`
    <section class="request" aria-labelledby=${`name-${request.id}`}>
      <h2 id=${`name-${request.id}`}>${request.id}</h2>
      <p class="soft">${request.model} · ${text.received(request.received_at)}</p>
      ${request.answers.map((answer) => html`<${Answer} key=${answer.index} id=${request.id} answer=${answer} several=${several} />`)}
    </section>
  `;
}

const root = document.getElementById('app');
root.replaceChildren(); // what stood there while the page was on its way
render(html`<${App} />`, root);
start();
