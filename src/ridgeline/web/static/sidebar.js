// The list of conversations; a drawer where the window is narrow.
import { Component, html, useEffect, useLayoutEffect, useRef, useState } from './lib.js';
import { hasKey } from './api.js';
import { appearance, CHOICES } from './appearance.js';
import { newChat, olderConversations, open, remove, rename, setPinned, signOut } from './conversations.js';
import { exportOne } from './data.js';
import { openDialog } from './dialog.js';
import { keepFocus } from './focus.js';
import { hideList, listShown } from './frame.js';
import { Dots, Download, Exchange, Gauge, Keys, Leave, Logo, Menu, Moon, Panel, Pencil, Pin, Plus, Screen, Search, Sun, Trash } from './icons.js';
import { hint } from './keys.js';
import { byDate, today } from './list.js';
import { MenuButton } from './menu.js';
import { conversations, live, moreConversations, pinned, session, thread } from './state.js';
import { text, title } from './text.js';
import { touch } from './typing.js';

export function Sidebar() {
  const shut = !listShown();
  return html`
    <nav id="conversations" class=${shut ? 'sidebar' : 'sidebar shown'} aria-label=${text.conversations} inert=${shut}>
      <div class="brand">
        <${Logo} /><span>${title}</span>
        <button type="button" class="ghost" onClick=${hideList} aria-label=${text.closeList} title=${text.closeList}><${Panel} /></button>
      </div>
      <div class="entries">
        <button type="button" class="entry new" onClick=${() => newChat()}><${Plus} />${text.newChat}<${Hint} id="newChat" /></button>
        <button type="button" class="entry" onClick=${() => openDialog('search')}><${Search} />${text.search.name}<${Hint} id="search" /></button>
      </div>
      <${List} />
      <div class="entries foot">
        <${PageMenu} />
      </div>
    </nav>
  `;
}

function PageMenu() {
  const choices = CHOICES.map((choice, index) => ({
    label: text.menu.appearance[choice],
    icon: [Screen, Sun, Moon][index],
    checked: appearance.value === choice,
    run: () => (appearance.value = choice),
  }));
  const items = () => [
    ...choices,
    null,
    { label: text.dashboard, icon: Gauge, run: () => location.assign('/dashboard') },
    { label: text.data.name, icon: Exchange, run: () => openDialog('data') },
    ...(touch.matches ? [] : [{ label: text.keys.name, icon: Keys, run: () => openDialog('shortcuts') }]),
    ...(hasKey() ? [{ label: text.menu.signOut, detail: text.menu.signedIn(session.value.tenant), icon: Leave, run: signOut }] : []),
  ];
  return html`<${MenuButton} kind="entry" label=${text.menu.name} items=${items} align="start"><${Menu} />${text.menu.name}<//>`;
}

function Hint({ id }) {
  return html`<span class="key-hint keyboard-only" aria-hidden="true">${hint(id)}</span>`;
}

function List() {
  const groups = byDate(conversations.value, today.value);
  if (pinned.value.length) groups.unshift({ label: text.list.pinned, rows: pinned.value });
  return html`
    <div class="list">
      ${groups.map((group) => html`<${Group} key=${group.label} ...${group} />`)}
      ${groups.length ? null : html`<p class="none">${text.noConversations}</p>`}
      ${moreConversations.value ? html`<${Older} />` : null}
    </div>
  `;
}

function Group({ label, rows }) {
  const current = thread.value?.id;
  return html`
    <section>
      <h2>${label}</h2>
      <ul>
        ${rows.map((row) => html`<${Row} key=${row.id} row=${row} current=${row.id === current} writing=${live.value.has(row.id)} />`)}
      </ul>
    </section>
  `;
}

// Loads the next page when it comes into sight; the button is for those who do not scroll.
function Older() {
  const button = useRef();
  useEffect(() => {
    const observer = new IntersectionObserver(([entry]) => entry.isIntersecting && olderConversations(), {
      root: button.current.closest('.list'),
      rootMargin: '300px',
    });
    observer.observe(button.current);
    return () => observer.disconnect();
  }, [conversations.value.length]);
  async function onClick() {
    const rows = document.querySelectorAll('.list a').length;
    await olderConversations();
    requestAnimationFrame(() => document.querySelectorAll('.list a')[rows]?.focus());
  }
  return html`<button type="button" ref=${button} class="ghost older" onClick=${onClick}>${text.older}</button>`;
}

// Hundreds of rows stay quick because only those that changed are made anew.
class Row extends Component {
  shouldComponentUpdate(next) {
    return ['row', 'current', 'writing'].some((name) => next[name] !== this.props[name]);
  }

  render({ row, current, writing }) {
    return html`<${Entry} ...${{ row, current, writing }} />`;
  }
}

function Entry({ row, current, writing }) {
  const [renaming, setRenaming] = useState(false);
  const item = useRef();
  const link = () => item.current?.querySelector('a');
  function onClick(event) {
    if (event.metaKey || event.ctrlKey || event.shiftKey || event.button) return; // a new tab, say
    event.preventDefault();
    open(row.id);
  }
  async function onDelete() {
    const links = [...document.querySelectorAll('.list a')];
    const at = links.indexOf(link());
    await remove(row);
    (links[at + 1] ?? links[at - 1] ?? document.querySelector('.new')).focus();
  }
  async function onPin() {
    await setPinned(row, !row.pinned);
    document.querySelector(`.list a[href="/c/${row.id}"]`)?.focus();
  }
  const items = () => [
    { label: text.list.rename, icon: Pencil, run: () => setRenaming(true) },
    { label: row.pinned ? text.list.unpin : text.list.pin, icon: Pin, run: onPin },
    { label: text.list.export, icon: Download, run: () => exportOne(row) },
    null,
    { label: text.list.delete, icon: Trash, run: onDelete, danger: true },
  ];
  const done = (refocus) => {
    setRenaming(false);
    if (refocus) keepFocus(link);
  };
  if (renaming) {
    return html`<li class="renaming" ref=${item}><${TitleField} row=${row} done=${done} /></li>`;
  }
  return html`
    <li class=${current ? 'current' : ''} ref=${item}>
      <a href=${`/c/${row.id}`} dir="auto" onClick=${onClick} aria-current=${current ? 'page' : null} title=${row.title}>
        ${row.title}
        ${writing ? html`<span class="dot"><span class="offscreen">${text.writing}</span></span>` : null}
      </a>
      <${MenuButton} label=${text.list.options(row.title)} items=${items}><${Dots} /><//>
    </li>
  `;
}

// Enter and leaving the field keep what was typed, Esc does not.
export function TitleField({ row, done }) {
  const field = useRef();
  const ended = useRef(false);
  useLayoutEffect(() => {
    // Set once: the model's title may arrive while another one is being typed.
    field.current.value = row.title;
    field.current.focus();
    field.current.select();
  }, []);
  function end(keep, refocus) {
    if (ended.current) return;
    ended.current = true;
    if (keep) rename(row, field.current.value);
    done(refocus);
  }
  function onKeyDown(event) {
    if (event.isComposing || (event.key !== 'Escape' && event.key !== 'Enter')) return;
    event.preventDefault();
    event.stopPropagation();
    end(event.key === 'Enter', true);
  }
  return html`
    <input
      ref=${field}
      class="title-field"
      dir="auto"
      aria-label=${text.list.titleOf(row.title)}
      maxlength="200"
      autocomplete="off"
      onKeyDown=${onKeyDown}
      onBlur=${() => end(true, false)}
    />
  `;
}
