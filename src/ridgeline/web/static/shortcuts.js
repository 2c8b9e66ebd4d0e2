// What the keyboard shortcuts do, and the dialog that lists them.
import { copy } from './clipboard.js';
import { newChat } from './conversations.js';
import { closeDialog, dialog, Dialog, openDialog } from './dialog.js';
import { toggleList } from './frame.js';
import { KEYS, keyNames, matches } from './keys.js';
import { html } from './lib.js';
import { phase, status, thread } from './state.js';
import { text } from './text.js';

const words = text.keys;

function toggle(name) {
  if (dialog.value === name) closeDialog();
  else openDialog(name);
}

async function copyLast(found, done) {
  if (found) await copy(found);
  status.value = found ? done : words.nothing;
}

function lastAnswer() {
  return thread.value?.messages.value.findLast((message) => message.role === 'assistant' && message.said);
}

function lastCode() {
  const blocks = thread.value?.messages.value.flatMap((message) => message.reply?.said.blocks.value ?? []);
  return blocks?.findLast((block) => block.kind === 'code');
}

const ACTIONS = {
  newChat: () => newChat(),
  search: () => toggle('search'),
  list: () => toggleList(),
  focus: () => document.getElementById('message')?.focus(),
  copyAnswer: () => copyLast(lastAnswer()?.said, words.copiedAnswer),
  copyCode: () => copyLast(lastCode()?.text, words.copiedCode),
  settings: () => toggle('settings'),
  shortcuts: () => toggle('shortcuts'),
};

// True if the event was a shortcut, and is dealt with.
export function onShortcut(event) {
  if (phase.value !== 'ready' || event.isComposing || event.defaultPrevented) return false;
  const found = KEYS.find((entry) => !entry.listed && matches(event, entry.keys));
  if (!found || (dialog.value && !found.overDialogs)) return false;
  event.preventDefault();
  ACTIONS[found.id]();
  return true;
}

export function ShortcutsDialog() {
  return html`
    <${Dialog} title=${words.name} kind="shortcuts">
      ${Object.entries(words.groups).map(
        ([group, label]) => html`
          <section key=${group}>
            <h3>${label}</h3>
            <dl>${KEYS.filter((entry) => entry.group === group).map((entry) => html`<${Line} key=${entry.id} entry=${entry} />`)}</dl>
          </section>
        `,
      )}
    <//>
  `;
}

function Line({ entry }) {
  return html`
    <div>
      <dt>${words[entry.id]}</dt>
      <dd>${keyNames(entry.keys).map((name) => html`<kbd>${name}</kbd>`)}</dd>
    </div>
  `;
}
