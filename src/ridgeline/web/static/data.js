// Conversations as files: all of them or one, and back again.
import { call, download } from './api.js';
import { complain, refreshConversations } from './conversations.js';
import { Dialog } from './dialog.js';
import { html, useRef, useState } from './lib.js';
import { handled } from './errors.js';
import { Download, Upload } from './icons.js';
import { session } from './state.js';
import { explain, text } from './text.js';

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
  const picker = useRef();

  async function attempt(work) {
    setBusy(true);
    try {
      await work();
    } catch (error) {
      if (handled(error)) return;
      const { title, body } = explain(error);
      setTold({ bad: true, title, body: error.code === 'invalid_request' ? error.message : body });
    }
    setBusy(false);
  }
  const exportAll = () =>
    attempt(async () => {
      setTold({ title: text.data.exporting });
      keep(await download('/web/export'), text.data.file(new Date().toISOString().slice(0, 10)));
      setTold(null);
    });
  const importFile = (file) =>
    attempt(async () => {
      const limit = session.value.limits?.import_bytes ?? Infinity;
      if (file.size > limit) {
        setTold({ bad: true, title: text.data.failed, body: text.data.tooLarge(Number((limit / 1e6).toPrecision(2))) });
        return;
      }
      setTold({ title: text.data.importing(file.name) });
      const { imported, skipped } = await call('POST', '/web/import', file);
      setTold({ title: text.data.imported(imported, skipped) });
      await refreshConversations();
    });
  function onChange(event) {
    const [file] = event.target.files;
    event.target.value = ''; // the same file can then be chosen again
    if (file) importFile(file);
  }
  return html`
    <${Dialog} title=${text.data.name} kind="data">
      <div class="part">
        <h3>${text.data.exportTitle}</h3>
        <p>${text.data.exportBody}</p>
        <button type="button" class="plain" disabled=${busy} onClick=${exportAll} autofocus><${Download} />${text.data.exportAll}</button>
      </div>
      <div class="part">
        <h3>${text.data.importTitle}</h3>
        <p>${text.data.importBody}</p>
        <input ref=${picker} type="file" accept="application/json,.json" hidden onChange=${onChange} />
        <button type="button" class="plain" disabled=${busy} onClick=${() => picker.current.click()}><${Upload} />${text.data.choose}</button>
      </div>
      <div class="told" role="status">
        ${told
          ? html`<p class=${told.bad ? 'bad' : ''}><strong>${told.title}</strong> ${told.body ?? ''}</p>`
          : null}
      </div>
    <//>
  `;
}
