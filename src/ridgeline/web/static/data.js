// Conversations as files: all of them or one, and back again.
import { call, download } from './api.js';
import { complain, refreshConversations, removeAll } from './conversations.js';
import { Dialog } from './dialog.js';
import { html, useLayoutEffect, useRef, useState } from './lib.js';
import { handled } from './errors.js';
import { keepFocus } from './focus.js';
import { Download, Trash, Upload } from './icons.js';
import { session } from './state.js';
import { explain, text } from './text.js';

const words = text.data;

function keep(blob, name) {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export async function exportOne(conversation) {
  try {
    const blob = await download(`/web/conversations/${conversation.id}/export`);
    keep(blob, `${fileName(conversation.title)}.json`);
  } catch (error) {
    complain(error);
  }
}

// A title as every file system takes it.
function fileName(title) {
  return title.replace(/[\p{Cc}\s\\/:*?"<>|.]+/gu, ' ').trim().slice(0, 80) || 'conversation';
}

export function DataDialog() {
  const [told, setTold] = useState(null); // {bad, title, body}
  const [busy, setBusy] = useState(false);
  const [doomed, setDoomed] = useState(null); // {conversations, pinned}, while it is asked whether to delete them
  const picker = useRef();

  // Buttons are disabled meanwhile, and lose their focus.
  const refocus = (button) =>
    keepFocus(() => (button?.isConnected ? button : document.querySelector('.data .danger')));

  async function attempt(work) {
    const pressed = document.activeElement;
    setBusy(true);
    try {
      await work();
    } catch (error) {
      if (handled(error)) return;
      const { title, body } = explain(error);
      setTold({ bad: true, title, body: error.code === 'invalid_request' ? error.message : body });
    }
    setBusy(false);
    refocus(pressed);
  }
  const exportAll = () =>
    attempt(async () => {
      setTold({ title: words.exporting });
      keep(await download('/web/export'), words.file(new Date().toISOString().slice(0, 10)));
      setTold(null);
    });
  const importFile = (file) =>
    attempt(async () => {
      const limit = session.value.limits?.import_bytes ?? Infinity;
      if (file.size > limit) {
        setTold({ bad: true, title: words.failed, body: words.tooLarge(Number((limit / 1e6).toPrecision(2))) });
        return;
      }
      setTold({ title: words.importing(file.name) });
      const { imported, skipped } = await call('POST', '/web/import', file);
      setTold({ title: words.imported(imported, skipped) });
      await refreshConversations();
    });
  const askToDelete = () =>
    attempt(async () => {
      setTold(null);
      const counts = await call('GET', '/web/conversations/count');
      if (counts.conversations) setDoomed(counts);
      else setTold({ title: words.nothing });
    });
  const keepAll = () => {
    setDoomed(null);
    refocus();
  };
  const deleteAll = () =>
    attempt(async () => {
      setDoomed(null);
      setTold({ title: words.deleting });
      setTold({ title: words.deleted(await removeAll()) });
    });
  function onChange(event) {
    const [file] = event.target.files;
    event.target.value = ''; // the same file can then be chosen again
    if (file) importFile(file);
  }
  return html`
    <${Dialog} title=${words.name} kind="data">
      <div class="part">
        <h3>${words.exportTitle}</h3>
        <p>${words.exportBody}</p>
        <button type="button" class="plain" disabled=${busy} onClick=${exportAll} autofocus><${Download} />${words.exportAll}</button>
      </div>
      <div class="part">
        <h3>${words.importTitle}</h3>
        <p>${words.importBody}</p>
        <input ref=${picker} type="file" accept="application/json,.json" hidden onChange=${onChange} />
        <button type="button" class="plain" disabled=${busy} onClick=${() => picker.current.click()}><${Upload} />${words.choose}</button>
      </div>
      <div class="part">
        <h3>${words.deleteTitle}</h3>
        <p>${words.deleteBody}</p>
        ${doomed
          ? html`<${Sure} ...${doomed} yes=${deleteAll} no=${keepAll} />`
          : html`<button type="button" class="plain danger" disabled=${busy} onClick=${askToDelete}><${Trash} />${words.deleteAll}</button>`}
      </div>
      <div class="told" role="status">
        ${told
          ? html`<p class=${told.bad ? 'bad' : ''}><strong>${told.title}</strong> ${told.body ?? ''}</p>`
          : null}
      </div>
    <//>
  `;
}

function Sure({ conversations, pinned, yes, no }) {
  const stay = useRef();
  useLayoutEffect(() => stay.current.focus(), []);
  return html`
    <div class="sure" role="alert">
      <strong>${words.sure(conversations, pinned)}</strong>
      <p class="buttons">
        <button type="button" class="plain" ref=${stay} onClick=${no}>${text.cancel}</button>
        <button type="button" class="primary danger" onClick=${yes}>${words.yes(conversations)}</button>
      </p>
    </div>
  `;
}
