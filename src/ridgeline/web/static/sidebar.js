// The list of conversations; a drawer where the window is narrow.
import { html, useEffect, useRef } from './lib.js';
import { newChat, olderConversations, open, remove } from './conversations.js';
import { Close, Logo, Plus, Trash } from './icons.js';
import { conversations, drawer, live, moreConversations, thread } from './state.js';
import { text, title } from './text.js';

export function Sidebar({ narrow }) {
  const panel = useRef();
  const shut = narrow && !drawer.value;
  useEffect(() => {
    if (narrow && drawer.value) panel.current.querySelector('button, a').focus();
  }, [drawer.value, narrow]);
  return html`
    <nav id="conversations" ref=${panel} class=${drawer.value ? 'sidebar shown' : 'sidebar'} aria-label=${text.conversations} inert=${shut}>
      <div class="brand">
        <${Logo} /><span>${title}</span>
        <button type="button" class="ghost drawer-only" onClick=${() => (drawer.value = false)} aria-label=${text.closeList}><${Close} /></button>
      </div>
      <button type="button" class="new" onClick=${newChat}><${Plus} />${text.newChat}</button>
      <ul class="list">
        ${conversations.value.map((row) => html`<${Row} key=${row.id} row=${row} />`)}
      </ul>
      ${conversations.value.length ? null : html`<p class="none">${text.noConversations}</p>`}
      ${moreConversations.value ? html`<button type="button" class="ghost" onClick=${olderConversations}>${text.older}</button>` : null}
    </nav>
  `;
}

function Row({ row }) {
  const current = thread.value?.id === row.id;
  function onClick(event) {
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.button) return; // a new tab, say
    event.preventDefault();
    open(row.id);
  }
  async function onDelete(event) {
    const item = event.currentTarget.closest('li');
    const next = (item.nextElementSibling ?? item.previousElementSibling)?.querySelector('a');
    await remove(row);
    (next ?? document.querySelector('.new')).focus();
  }
  return html`
    <li class=${current ? 'current' : ''}>
      <a href=${`/c/${row.id}`} onClick=${onClick} aria-current=${current ? 'page' : null} title=${row.title}>
        ${row.title}
        ${live.value.has(row.id) ? html`<span class="dot"><span class="offscreen">${text.writing}</span></span>` : null}
      </a>
      <button type="button" class="ghost" onClick=${onDelete} aria-label=${text.remove(row.title)} title=${text.remove(row.title)}>
        <${Trash} />
      </button>
    </li>
  `;
}
