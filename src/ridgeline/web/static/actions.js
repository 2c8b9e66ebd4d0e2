// What people can do, and what then passes between page and server.
import { ApiError, call, events, setKey } from './api.js';
import { batch } from './lib.js';
import * as state from './state.js';
import { text, title } from './text.js';

const RETRY_SECONDS = 5;
const DRAFT = 'ridgeline.draft';

// --- Starting -----------------------------------------------------------------------------------

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
    if (!handled(error)) throw error;
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

// Errors that concern the whole page; false leaves it to the caller.
function handled(error) {
  if (!(error instanceof ApiError)) return false;
  if (error.code === 'invalid_api_key') {
    state.phase.value = 'login';
    return true;
  }
  if (state.phase.value !== 'ready') {
    state.phase.value = 'unreachable';
    setTimeout(connect, 2000);
    return true;
  }
  return false;
}

// --- Conversations ------------------------------------------------------------------------------

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

function showNew() {
  batch(() => {
    state.thread.value = null;
    state.missing.value = false;
    state.notice.value = null;
    state.draft.value = loadDraft();
  });
  document.title = title;
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

function present(thread) {
  batch(() => {
    state.thread.value = thread;
    state.missing.value = false;
    state.notice.value = null;
    state.pickedModel.value = null;
    state.draft.value = loadDraft();
  });
  document.title = `${thread.title} · ${title}`;
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

// --- Asking -------------------------------------------------------------------------------------

export async function send(content = state.draft.value) {
  if (state.sending.value || state.answering.value || !content.trim()) return;
  cancelRetry();
  const thread = state.thread.value;
  state.draft.value = content;
  state.sending.value = true;
  try {
    const answer = await call('POST', '/web/messages', {
      content,
      conversation_id: thread?.id ?? null,
      model: state.model.value,
    });
    arrived(thread, answer);
  } catch (error) {
    if (!handled(error)) fail(error, () => send());
  } finally {
    state.sending.value = false;
  }
}

function arrived(before, { conversation, question, answer }) {
  const thread = before ?? new state.Thread(conversation, []);
  const message = new state.Message(answer);
  const here = state.thread.value === before;
  batch(() => {
    thread.model.value = conversation.model;
    thread.messages.value = [...thread.messages.value, new state.Message(question), message];
    state.conversations.value = [
      conversation,
      ...state.conversations.value.filter((row) => row.id !== conversation.id),
    ];
    if (here) {
      saveDraft('');
      state.draft.value = '';
      state.notice.value = null;
      if (!before) history.replaceState(null, '', `/c/${thread.id}`);
      present(thread);
    }
  });
  follow(thread, message);
}

export async function goOn(thread, message) {
  message.retryAt.value = null;
  try {
    const { answer } = await call('POST', `/web/answers/${message.id}/continue`);
    message.update(answer);
    follow(thread, message);
  } catch (error) {
    if (!handled(error)) fail(error, () => goOn(thread, message));
  }
}

export async function stop() {
  const message = state.answering.value;
  if (!message) return;
  try {
    const { answer } = await call('POST', `/web/answers/${message.id}/stop`);
    if (message.streaming) finish(message, answer);
  } catch (error) {
    if (error.status !== 404 && !handled(error)) tell(error);
  }
}

// --- Following an answer ------------------------------------------------------------------------

const followers = new Map();

async function follow(thread, message) {
  followers.get(message.id)?.abort();
  const control = new AbortController();
  followers.set(message.id, control);
  state.live.value = new Map(state.live.value).set(thread.id, thread);
  state.status.value = text.status.started;
  let last = null;
  for (let attempt = 0; message.streaming && !control.signal.aborted; attempt += 1) {
    try {
      for await (const event of events(`/web/answers/${message.id}/events`, last, control.signal)) {
        attempt = 0;
        last = event.id;
        message.lost.value = false;
        take(message, event);
      }
    } catch (error) {
      if (error.name === 'AbortError' || handled(error)) break;
      if (error.status === 404) {
        forget(thread.id);
        break;
      }
    }
    if (message.streaming && !control.signal.aborted) {
      message.lost.value = true;
      await new Promise((done) => setTimeout(done, Math.min(8000, 500 * 2 ** attempt)));
    }
  }
  if (followers.get(message.id) === control) followers.delete(message.id);
  if (!message.streaming) drop(thread.id);
}

function take(message, { kind, data }) {
  if (kind === 'text') message.append(data.text);
  else if (kind === 'snapshot') message.update(data.message);
  else {
    if (data.problem) showProblem(data.problem);
    finish(message, data.message);
  }
}

function finish(message, data) {
  message.update(data);
  state.status.value = text.status[data.status] ?? '';
  if (data.error?.code === 'at_capacity') {
    message.retryAt.value = Date.now() + waitSeconds(data.error.retry_after_seconds) * 1000;
  }
}

function forget(conversationId) {
  const thread = state.live.value.get(conversationId);
  if (thread) followers.get(thread.last?.id)?.abort();
  drop(conversationId);
}

function drop(conversationId) {
  const rest = new Map(state.live.value);
  rest.delete(conversationId);
  state.live.value = rest;
}

// --- Errors, and going on by itself -------------------------------------------------------------

function waitSeconds(seconds) {
  // Everybody who was refused gets the same number; a little noise keeps them apart.
  return Math.max(1, (seconds ?? RETRY_SECONDS) * (1 + 0.2 * Math.random()));
}

// The same text again would be refused again.
const FINAL = ['context_length_exceeded', 'request_too_large', 'invalid_request', 'model_not_found'];

function fail(error, retry) {
  const waits = error.code === 'at_capacity';
  state.notice.value = {
    error,
    retry: FINAL.includes(error.code) ? null : retry,
    retryAt: waits ? Date.now() + waitSeconds(error.retryAfterSeconds) * 1000 : null,
  };
  state.status.value = text.status.failed;
}

export function cancelRetry() {
  if (state.notice.value) state.notice.value = { ...state.notice.value, retryAt: null };
}

function tell(error) {
  if (!handled(error)) state.notice.value = { error, retry: null, retryAt: null };
}

function showProblem(problem) {
  showToast({ text: problem, seconds: null });
}

let toastTimer;
export function showToast(toast) {
  clearTimeout(toastTimer);
  state.toast.value = toast;
  if (toast?.seconds) toastTimer = setTimeout(() => (state.toast.value = null), toast.seconds * 1000);
}

// --- Drafts -------------------------------------------------------------------------------------

function draftKey() {
  return `${DRAFT}:${state.thread.value?.id ?? 'new'}`;
}

export function saveDraft(value) {
  state.draft.value = value;
  try {
    if (value) sessionStorage.setItem(draftKey(), value);
    else sessionStorage.removeItem(draftKey());
  } catch {
    // full or forbidden; the box itself still has it
  }
}

function loadDraft() {
  try {
    return sessionStorage.getItem(draftKey()) ?? '';
  } catch {
    return '';
  }
}
