// Asking, following an answer as it is written, stopping it, going on with it.
import { call, events } from './api.js';
import { saveDraft } from './drafts.js';
import { cancelRetry, fail, handled, showProblem, tell, waitSeconds } from './errors.js';
import { batch } from './lib.js';
import { listed } from './list.js';
import { present } from './shown.js';
import * as state from './state.js';
import { text } from './text.js';
import { awaitTitle } from './titles.js';

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
      ...(thread ? {} : beginning()),
    });
    arrived(thread, answer);
  } catch (error) {
    if (!handled(error)) fail(error, () => send());
  } finally {
    state.sending.value = false;
  }
}

// What a conversation begins with, beside its first message.
function beginning() {
  const settings = state.newSettings.value;
  return {
    ...(settings === state.NO_SETTINGS ? {} : { settings }),
    ...(state.temporary.value ? { temporary: true } : {}),
  };
}

function arrived(before, { conversation, question, answer }) {
  const thread = before ?? new state.Thread(conversation, []);
  const message = new state.Message(answer);
  const here = state.thread.value === before;
  batch(() => {
    thread.model.value = conversation.model;
    thread.tree.value = [...thread.tree.value, new state.Message(question), message];
    thread.leafId.value = message.id;
    listed(conversation);
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

export async function follow(thread, message) {
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
  if (!message.streaming) {
    drop(thread.id);
    if (message.data.value.status === 'complete') awaitTitle(thread);
  }
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

export function forget(conversationId) {
  const thread = state.live.value.get(conversationId);
  if (thread) followers.get(thread.writing.value?.id)?.abort();
  drop(conversationId);
}

function drop(conversationId) {
  const rest = new Map(state.live.value);
  rest.delete(conversationId);
  state.live.value = rest;
}
