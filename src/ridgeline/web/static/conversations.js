// Conversations: the list, opening one, changing it, deleting it and bringing it back.
import { ApiError, call, forgetKey, keepKey, onKeyElsewhere, setKey } from './api.js';
import { handled, showProblem, showToast, tell } from './errors.js';
import { forget, resume } from './following.js';
import { batch } from './lib.js';
import { firstPage, listed, nextPage, unlisted } from './list.js';
import { reveal } from './reveal.js';
import { present, showNew } from './shown.js';
import * as state from './state.js';
import { explain, text } from './text.js';

export async function start() {
  window.addEventListener('popstate', () => openFromAddress());
  onKeyElsewhere((key) => state.phase.value === 'login' && login(key), signOut);
  await connect();
}

export async function connect() {
  try {
    state.session.value = await call('GET', '/web/session');
    if (state.session.value.problem) showProblem(state.session.value.problem);
    await Promise.all([refreshConversations(), openFromAddress()]);
    state.phase.value = 'ready';
  } catch (error) {
    if (handled(error)) return;
    if (!(error instanceof ApiError)) throw error;
    state.phase.value = 'unreachable';
    setTimeout(connect, 2000);
  }
}

// `keep`: undefined where the key is kept already, else whether to keep it on this device.
export async function login(key, keep) {
  setKey(key.trim());
  state.loginFailed.value = false;
  await connect();
  if (state.phase.value === 'login') {
    setKey(null);
    state.loginFailed.value = true;
  } else if (keep !== undefined) keepKey(keep);
}

// The page is loaded anew: nothing that was on it stays.
export function signOut() {
  forgetKey();
  state.phase.value = 'login'; // should the way back lead to this page as it was
  location.replace('/');
}

// An error in what was done to the list; there is no message box that it belongs to.
export function complain(error) {
  if (handled(error)) return;
  const { title, body } = explain(error);
  const advice = error.code === 'unreachable' ? text.list.tryLater : body;
  showToast({ text: `${title}. ${advice}`, seconds: null });
}

export async function refreshConversations() {
  firstPage(await call('GET', '/web/conversations'));
}

let asking = false;
export async function olderConversations() {
  if (asking || !state.moreConversations.value) return;
  asking = true;
  try {
    const last = state.conversations.value.at(-1);
    if (last) nextPage(await call('GET', `/web/conversations?before_ms=${last.updated_ms}`));
    else await refreshConversations(); // all of the first page has been deleted
  } catch (error) {
    complain(error);
  } finally {
    asking = false;
  }
}

// --- Which one is shown -------------------------------------------------------------------------

function openFromAddress() {
  const id = location.pathname.match(/^\/c\/([\w-]+)$/)?.[1];
  return id ? show(id) : begin(location.search === '?temporary');
}

// `place`: {id, match} of a message to lead the reader to.
export function open(id, place = null) {
  go(`/c/${id}`);
  state.sought.value = place;
  return show(id);
}

export function newChat({ temporary = false } = {}) {
  go(temporary ? '/?temporary' : '/');
  return begin(temporary);
}

function begin(temporary) {
  batch(() => {
    if (state.thread.value) state.newSettings.value = state.NO_SETTINGS;
    state.temporary.value = temporary;
    showNew();
  });
}

function go(path) {
  if (location.pathname + location.search !== path) history.pushState(null, '', path);
  state.drawer.value = false;
}

async function show(id) {
  const kept = state.live.value.get(id);
  if (kept) {
    present(kept);
    resume(kept);
    return reveal();
  }
  try {
    const { conversation, messages } = await call('GET', `/web/conversations/${id}`);
    if (location.pathname !== `/c/${id}`) return undefined; // another one was opened meanwhile
    const thread = new state.Thread(conversation, messages);
    present(thread);
    reveal();
    resume(thread);
  } catch (error) {
    if (error.status === 404) {
      batch(() => {
        state.thread.value = null;
        state.missing.value = true;
      });
    } else if (state.phase.value === 'ready') tell(error);
    else throw error;
  }
  return undefined;
}

// --- Changing one -------------------------------------------------------------------------------

// Shows the change at once, and takes it back if the server does not accept it.
async function change(conversation, changes, done) {
  listed({ ...conversation, ...changes });
  try {
    listed((await call('PATCH', `/web/conversations/${conversation.id}`, changes)).conversation);
    state.status.value = done;
  } catch (error) {
    listed(conversation);
    complain(error);
  }
}

export function rename(conversation, typed) {
  const name = typed.trim();
  if (!name || name === conversation.title) return undefined;
  return change(conversation, { title: name }, text.list.renamed(name));
}

export function setPinned(conversation, pinned) {
  const said = pinned ? text.list.wasPinned : text.list.wasUnpinned;
  return change(conversation, { pinned }, said(conversation.title));
}

// Throws what the server says against them, for the form to show.
export async function saveSettings(settings) {
  const open = state.thread.value;
  if (!open) {
    state.newSettings.value = settings;
    return;
  }
  listed((await call('PATCH', `/web/conversations/${open.id}`, { settings })).conversation);
}

export async function remove(conversation) {
  try {
    await call('DELETE', `/web/conversations/${conversation.id}`);
  } catch (error) {
    if (error.status !== 404) return complain(error);
  }
  forget(conversation.id);
  unlisted(conversation.id);
  if (state.thread.value?.id === conversation.id) newChat();
  if (conversation.temporary) {
    showToast({ text: text.list.gone, seconds: 5 });
    return undefined;
  }
  showToast({
    text: text.removed(conversation.title),
    action: text.undo,
    run: () => restore(conversation),
    seconds: Math.min(10, state.session.value.undo_seconds),
  });
  return undefined;
}

// Temporary chats go by themselves.
export async function removeAll() {
  const { deleted } = await call('DELETE', '/web/conversations');
  const stays = (thread) => thread.conversation.value.temporary;
  for (const thread of state.live.value.values()) if (!stays(thread)) forget(thread.id);
  if (state.thread.value && !stays(state.thread.value)) newChat();
  await refreshConversations();
  return deleted;
}

async function restore(conversation) {
  try {
    await call('POST', `/web/conversations/${conversation.id}/restore`);
    listed(conversation);
    state.status.value = text.list.restored(conversation.title);
    requestAnimationFrame(() => document.querySelector(`.list a[href="/c/${conversation.id}"]`)?.focus());
  } catch (error) {
    complain(error);
  }
}
