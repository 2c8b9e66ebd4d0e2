// The page as a whole.
import { stop } from './answers.js';
import { Composer } from './composer.js';
import { login, start } from './conversations.js';
import { DataDialog } from './data.js';
import { dialog } from './dialog.js';
import { showToast } from './errors.js';
import { hideList, narrow } from './frame.js';
import { Header, TemporaryBanner } from './header.js';
import { Close } from './icons.js';
import { effect, html, render } from './lib.js';
import { Loading, Login, Unreachable } from './login.js';
import { renewOnReturn } from './renewal.js';
import { SearchDialog } from './search.js';
import { SettingsDialog } from './settings.js';
import { onShortcut, ShortcutsDialog } from './shortcuts.js';
import { Sidebar } from './sidebar.js';
import { answering, drawer, loginFailed, phase, status, thread, toast } from './state.js';
import { text, title } from './text.js';
import { Messages } from './thread.js';

const DIALOGS = { search: SearchDialog, settings: SettingsDialog, shortcuts: ShortcutsDialog, data: DataDialog };

function App() {
  if (phase.value === 'login') return html`<${Login} login=${login} failed=${loginFailed.value} />`;
  if (phase.value === 'unreachable') return html`<${Unreachable} />`;
  if (phase.value === 'loading') return html`<${Loading} />`;
  return html`<${Chat} />`;
}

function Chat() {
  const covered = narrow.value && drawer.value;
  return html`
    <a class="skip" href="#message">${text.skip}</a>
    <${Sidebar} />
    ${covered ? html`<div class="scrim" onClick=${hideList}></div>` : null}
    <div class="pane" inert=${covered}>
      <${Header} />
      <main>
        <${TemporaryBanner} />
        <${Messages} />
        <${Composer} />
      </main>
    </div>
    ${dialog.value ? html`<${DIALOGS[dialog.value]} key=${dialog.value} />` : null}
    <${Toast} />
    <p class="offscreen" role="status" aria-live="polite">${status.value}</p>
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

document.addEventListener('keydown', (event) => {
  if (onShortcut(event) || event.key !== 'Escape' || event.isComposing || event.defaultPrevented || dialog.value) return;
  if (narrow.value && drawer.value) hideList();
  else if (answering.value) {
    stop();
    document.getElementById('message')?.focus();
  }
});

effect(() => {
  document.title = thread.value ? `${thread.value.title} · ${title}` : title;
});
const root = document.getElementById('app');
root.replaceChildren(); // what stood there while the page was on its way
render(html`<${App} />`, root);
start();
renewOnReturn();
