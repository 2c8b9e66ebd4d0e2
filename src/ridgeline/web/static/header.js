// What stands above a conversation: its title, its model, its settings.
import { newChat, remove } from './conversations.js';
import { openDialog } from './dialog.js';
import { keepFocus } from './focus.js';
import { listShown, showList } from './frame.js';
import { Chevron, Panel, Plus, Sliders, Temporary } from './icons.js';
import { html, useState } from './lib.js';
import { MenuButton } from './menu.js';
import { settingsChanged } from './settings.js';
import { TitleField } from './sidebar.js';
import { missing, model, models, pickedModel, temporary, thread } from './state.js';
import { text } from './text.js';

export function Header() {
  const shown = listShown();
  const fresh = !thread.value && !missing.value;
  return html`
    <header>
      ${shown ? null : html`<${IconButton} id="open-list" label=${text.openList} icon=${Panel} run=${showList} controls="conversations" />`}
      <div class="heading">
        <${Title} key=${thread.value?.id} />
        <${ModelPicker} />
      </div>
      <div class="header-tools">
        ${fresh ? html`<${TemporaryToggle} />` : null}
        ${missing.value ? null : html`<${SettingsButton} />`}
        ${shown || fresh ? null : html`<${IconButton} label=${text.newChat} icon=${Plus} run=${() => newChat()} />`}
      </div>
    </header>
  `;
}

function IconButton({ id, label, icon, run, controls, kind = '' }) {
  return html`
    <button type="button" id=${id} class=${`ghost ${kind}`} aria-label=${label} title=${label} aria-controls=${controls} onClick=${run}>
      <${icon} />
    </button>
  `;
}

function Title() {
  const [renaming, setRenaming] = useState(false);
  const open = thread.value;
  if (!open) return html`<h1>${temporary.value && !missing.value ? text.temporary.name : text.newChat}</h1>`;
  const done = (refocus) => {
    setRenaming(false);
    if (refocus) keepFocus(() => document.getElementById('title'));
  };
  if (renaming) {
    return html`
      <h1 class="offscreen">${open.title}</h1>
      <${TitleField} row=${open.conversation.value} done=${done} />
    `;
  }
  return html`
    <h1>
      <button type="button" id="title" class="ghost" title=${text.list.renameThis} onClick=${() => setRenaming(true)}>
        <span dir="auto">${open.title}</span>
      </button>
    </h1>
  `;
}

function ModelPicker() {
  const shown = model.value;
  if (!shown) return null;
  const items = () =>
    models.value.map((entry) => ({
      label: entry.name,
      detail: details(entry),
      checked: entry.name === shown,
      run: () => (pickedModel.value = entry.name),
    }));
  return html`
    <${MenuButton} id="model" kind="ghost model" label=${text.models.label(shown)} items=${items}>
      <span>${shown}</span><${Chevron} />
    <//>
  `;
}

function details(entry) {
  const facts = [];
  if (entry.parameters) facts.push(text.models.parameters(entry.parameters));
  if (entry.max_context_tokens) facts.push(text.models.context(entry.max_context_tokens));
  return facts.join(' · ');
}

function SettingsButton() {
  const changed = settingsChanged();
  const label = changed ? text.settings.changed : text.settings.name;
  return html`<${IconButton} label=${label} icon=${Sliders} kind=${changed ? 'changed' : ''} run=${() => openDialog('settings')} />`;
}

function TemporaryToggle() {
  const on = temporary.value;
  return html`
    <button
      type="button"
      class=${on ? 'ghost on' : 'ghost'}
      aria-pressed=${on}
      aria-label=${text.temporary.name}
      title=${text.temporary.name}
      onClick=${() => newChat({ temporary: !on })}
    >
      <${Temporary} /><span>${text.temporary.name}</span>
    </button>
  `;
}

export function TemporaryBanner() {
  const open = thread.value?.conversation.value;
  if (missing.value || !(open ? open.temporary : temporary.value)) return null;
  return html`
    <div class="banner" role="note">
      <${Temporary} />
      <p>${text.temporary.banner}</p>
      ${open ? html`<button type="button" class="link" onClick=${() => remove(open)}>${text.temporary.remove}</button>` : null}
    </div>
  `;
}
