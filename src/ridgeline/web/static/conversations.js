// Conversations: the list, opening one, deleting it and bringing it back.
import { follow, forget } from './answers.js';
import { ApiError, call, setKey } from './api.js';
import { handled, showProblem, showToast, tell } from './errors.js';
import { batch } from './lib.js';
import { present, showNew } from './shown.js';
import * as state from './state.js';
import { text } from './text.js';

export async function start() {
  window.addEventListener('popstate', () => openFromAddress());
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

export async function login(key) {
  setKey(key.trim());
  state.loginFailed.value = false;
  await connect();
  if (state.phase.value === 'login') {
    setKey(null);
    state.loginFailed.value = true;
  }
}

export async function refreshConversations() {
  const page = await call('GET', '/web/conversations');
  state.conversations.value = page.conversations;
  state.moreConversations.value = page.more;
}

export async function olderConversations() {
  const before = state.conversations.value.at(-1).updated_ms;
  try {
    const page = await call('GET', `/web/conversations?before_ms=${before}`);
    state.conversations.value = [...state.conversations.value, ...page.conversations];
    state.moreConversations.value = page.more;
  } catch (error) {
    tell(error);
  }
}

function openFromAddress() {
  const id = location.pathname.match(/^\/c\/([\w-]+)$/)?.[1];
  return id ? show(id) : showNew();
}

export function open(id) {
  go(`/c/${id}`);
  return show(id);
}

export function newChat() {
  go('/');
  return showNew();
}

function go(path) {
  if (location.pathname !== path) history.pushState(null, '', path);
  state.drawer.value = false;
}

async function show(id) {
  const kept = state.live.value.get(id);
  if (kept) return present(kept);
  try {
    const { conversation, messages } = await call('GET', `/web/conversations/${id}`);
    if (location.pathname !== `/c/${id}`) return undefined; // another one was opened meanwhile
    const thread = new state.Thread(conversation, messages);
    present(thread);
    if (thread.last?.streaming) follow(thread, thread.last);
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

export async function remove(conversation) {
  try {
    await call('DELETE', `/web/conversations/${conversation.id}`);
  } catch (error) {
    if (error.status !== 404) return tell(error);
  }
  forget(conversation.id);
  state.conversations.value = state.conversations.value.filter((row) => row.id !== conversation.id);
  if (state.thread.value?.id === conversation.id) newChat();
  showToast({
    text: text.removed(conversation.title),
    action: text.undo,
    run: () => restore(conversation),
    seconds: Math.min(10, state.session.value.undo_seconds),
  });
  return undefined;
}

async function restore(conversation) {
  try {
    await call('POST', `/web/conversations/${conversation.id}/restore`);
    await refreshConversations();
  } catch (error) {
    tell(error);
  }
}
