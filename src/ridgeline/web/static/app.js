// The page as a whole.
import { html, render, useEffect, useState } from './lib.js';
import { stop } from './answers.js';
import { Composer } from './composer.js';
import { start } from './conversations.js';
import { showToast } from './errors.js';
import { Close, Menu } from './icons.js';
import { Login, Unreachable } from './login.js';
import { Sidebar } from './sidebar.js';
import { answering, drawer, model, models, phase, pickedModel, status, thread, toast } from './state.js';
import { text } from './text.js';
import { Messages } from './thread.js';

const narrowQuery = matchMedia('(max-width: 820px)');

function useNarrow() {
  const [narrow, setNarrow] = useState(narrowQuery.matches);
  useEffect(() => {
    const onChange = () => setNarrow(narrowQuery.matches);
    narrowQuery.addEventListener('change', onChange);
    return () => narrowQuery.removeEventListener('change', onChange);
  }, []);
  return narrow;
}

function App() {
  if (phase.value === 'login') return html`<${Login} />`;
  if (phase.value === 'unreachable') return html`<${Unreachable} />`;
  if (phase.value === 'loading') return html`<main class="gate" aria-busy="true"><span class="offscreen">${text.loading}</span></main>`;
  return html`<${Chat} />`;
}

function Chat() {
  const narrow = useNarrow();
  const open = narrow && drawer.value;
  return html`
    <a class="skip" href="#message">${text.skip}</a>
    <${Sidebar} narrow=${narrow} />
    ${open ? html`<div class="scrim" onClick=${closeDrawer}></div>` : null}
    <div class="pane" inert=${open}>
      <${Header} />
      <main>
        <${Messages} />
        <${Composer} />
      </main>
    </div>
    <${Toast} />
    <p class="offscreen" role="status" aria-live="polite">${status.value}</p>
  `;
}

function Header() {
  return html`
    <header>
      <button
        type="button"
        id="open-list"
        class="ghost drawer-only"
        aria-label=${text.openList}
        aria-controls="conversations"
        aria-expanded=${drawer.value}
        onClick=${() => (drawer.value = true)}
      >
        <${Menu} />
      </button>
      <h1>${thread.value?.title ?? text.newChat}</h1>
      <${ModelPicker} />
    </header>
  `;
}

function ModelPicker() {
  if (models.value.length < 2) return html`<span class="model">${model.value}</span>`;
  return html`
    <label class="offscreen" for="model">${text.model}</label>
    <select
      id="model"
      class="model"
      value=${model.value}
      disabled=${answering.value !== null}
      onChange=${(event) => (pickedModel.value = event.target.value)}
    >
      ${models.value.map((entry) => html`<option key=${entry.name} value=${entry.name}>${entry.name}</option>`)}
    </select>
  `;
}

function Toast() {
  const shown = toast.value;
  if (!shown) return null;
  const act = () => {
    showToast(null);
    shown.run();
  };
  return html`
    <div class="toast" role="status">
      <span>${shown.text}</span>
      ${shown.action ? html`<button type="button" class="link" onClick=${act}>${shown.action}</button>` : null}
      <button type="button" class="ghost" aria-label=${text.dismiss} onClick=${() => showToast(null)}><${Close} /></button>
    </div>
  `;
}

function closeDrawer() {
  drawer.value = false;
  document.getElementById('open-list')?.focus();
}

document.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape' || event.isComposing) return;
  if (drawer.value) closeDrawer();
  else if (answering.value) {
    stop();
    document.getElementById('message')?.focus();
  }
});

render(html`<${App} />`, document.getElementById('app'));
start();
