// Search over titles and messages; before anything is typed, the conversations of late.
import { call } from './api.js';
import { open } from './conversations.js';
import { closeDialog, Dialog } from './dialog.js';
import { handled } from './errors.js';
import { Close, Search } from './icons.js';
import { dayOf } from './list.js';
import { html, useEffect, useLayoutEffect, useRef, useState } from './lib.js';
import { conversations, pinned } from './state.js';
import { explain, text } from './text.js';

const DEBOUNCE_MS = 150;
const RECENT = 8;
const LIMIT = 30;

// What the server finds for `query`: {query, results, more} or {query, error}; null for no query.
function useResults(query, attempt) {
  const [found, setFound] = useState(null);
  useEffect(() => {
    if (!query) {
      setFound(null);
      return undefined;
    }
    const control = new AbortController();
    const timer = setTimeout(async () => {
      try {
        const address = `/web/search?q=${encodeURIComponent(query)}&limit=${LIMIT}`;
        setFound({ query, ...(await call('GET', address, undefined, control.signal)) });
      } catch (error) {
        if (error.name !== 'AbortError' && !handled(error)) setFound({ query, error });
      }
    }, DEBOUNCE_MS);
    return () => {
      clearTimeout(timer);
      control.abort();
    };
  }, [query, attempt]);
  return found;
}

function recent() {
  const rows = [...pinned.value, ...conversations.value].sort((a, b) => b.updated_ms - a.updated_ms);
  return rows.slice(0, RECENT).map((conversation) => ({ conversation, message_id: null, snippet: null }));
}

export function SearchDialog() {
  const [typed, setTyped] = useState('');
  const [attempt, setAttempt] = useState(0);
  const [chosen, setChosen] = useState(0);
  const list = useRef();
  const entered = useRef(null); // what was typed when Enter came before its results
  const query = typed.trim();
  const found = useResults(query, attempt);
  const rows = query ? (found?.results ?? []) : recent();
  const at = Math.min(chosen, rows.length - 1);
  useEffect(() => setChosen(0), [query]);
  useEffect(() => {
    if (found && found.query === entered.current && rows.length) go(rows[0]);
  }, [found]);
  useLayoutEffect(() => {
    list.current?.querySelector('[aria-selected=true]')?.scrollIntoView({ block: 'nearest' });
  }, [at]);

  function go(row) {
    closeDialog();
    open(row.conversation.id, row.message_id && { id: row.message_id, match: row.snippet.match });
  }
  function enter(wanted) {
    if (wanted !== (query ? found?.query : '')) entered.current = wanted;
    else if (rows[at]) go(rows[at]);
  }
  function onKeyDown(event) {
    if (event.isComposing) return;
    const to = {
      ArrowDown: (at + 1) % rows.length,
      ArrowUp: (at - 1 + rows.length) % rows.length,
    }[event.key];
    if (to !== undefined && rows.length) setChosen(to);
    else if (event.key === 'Enter') enter(event.target.value.trim());
    else return;
    event.preventDefault();
  }
  return html`
    <${Dialog} label=${text.search.title} kind="search">
      <div class="search-box">
        <${Search} />
        <input
          type="text"
          role="combobox"
          aria-label=${text.search.title}
          aria-expanded=${rows.length > 0}
          aria-controls="search-results"
          aria-autocomplete="list"
          aria-activedescendant=${rows.length ? `search-${at}` : null}
          placeholder=${text.search.placeholder}
          autocomplete="off"
          maxlength="200"
          spellcheck=${false}
          enterkeyhint="go"
          autofocus
          value=${typed}
          onInput=${(event) => setTyped(event.target.value)}
          onKeyDown=${onKeyDown}
        />
        <button type="button" class="ghost" aria-label=${text.close} title=${text.close} onClick=${closeDialog}><${Close} /></button>
      </div>
      <div class="results">
        ${query || !rows.length ? null : html`<p class="caption" aria-hidden="true">${text.search.recent}</p>`}
        <ul id="search-results" ref=${list} role="listbox" aria-label=${query ? text.search.results : text.search.recent}>
          ${rows.map((row, index) => html`<${Result} key=${index} ...${{ row, index, chosen: index === at, go, setChosen }} />`)}
        </ul>
        <${Outcome} found=${query ? found : null} again=${() => setAttempt(attempt + 1)} />
      </div>
      <p class="search-keys keyboard-only" aria-hidden="true">
        <kbd>↑</kbd><kbd>↓</kbd> ${text.search.move} <kbd>${text.keys.names.Enter}</kbd> ${text.search.open}
        <kbd>${text.keys.names.Escape}</kbd> ${text.search.dismiss}
      </p>
    <//>
  `;
}

function Result({ row, index, chosen, go, setChosen }) {
  const { conversation, message_id: message, snippet } = row;
  return html`
    <li
      id=${`search-${index}`}
      role="option"
      aria-selected=${chosen}
      onClick=${() => go(row)}
      onPointerMove=${() => chosen || setChosen(index)}
    >
      <span class="result-title" dir="auto">${snippet && !message ? html`<${Marked} snippet=${snippet} />` : conversation.title}</span>
      <span class="result-day">${dayOf(conversation.updated_ms)}</span>
      ${snippet && message ? html`<span class="snippet" dir="auto"><${Marked} snippet=${snippet} /></span>` : null}
    </li>
  `;
}

function Marked({ snippet }) {
  return html`${snippet.before}<mark>${snippet.match}</mark>${snippet.after}`;
}

function Outcome({ found, again }) {
  let told = null;
  if (found?.error) {
    const { title, body } = explain(found.error);
    told = html`
      <p class="bad"><strong>${title}</strong></p>
      <p>${found.error.code === 'unreachable' ? text.list.tryLater : body}</p>
      <button type="button" class="plain" onClick=${again}>${text.tryAgain}</button>
    `;
  } else if (found && !found.results.length) told = html`<p>${text.search.none(found.query)}</p>`;
  else if (found) {
    told = html`<p class=${found.more ? '' : 'offscreen'}>${found.more ? text.search.more : text.search.count(found.results.length)}</p>`;
  }
  return html`<div class="outcome" role="status">${told}</div>`;
}
