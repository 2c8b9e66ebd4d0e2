// Following an answer as it is written, through lost connections, and going on with one that is
// not whole: by hand, or by itself where the server said how long to wait.
import { call, events } from './api.js';
import { fail, handled, showProblem, waitSeconds } from './errors.js';
import * as state from './state.js';
import { text } from './text.js';
import { awaitTitle } from './titles.js';

const NOTE_MS = 7000; // between two notes for those who hear the page
const STALE_MS = 600_000; // a question of longer ago is not asked again without being told to

const followers = new Map();

// What was going on in a conversation when it was left goes on.
export function resume(thread) {
  const { writing, last } = thread;
  if (writing.value) follow(thread, writing.value);
  else if (last?.data.value.error?.code === 'at_capacity' && Date.now() - last.createdMs < STALE_MS) {
    goOnLater(thread, last);
  }
}

export async function follow(thread, message) {
  followers.get(message.id)?.abort();
  const control = new AbortController();
  followers.set(message.id, control);
  state.live.value = new Map(state.live.value).set(thread.id, thread);
  say(thread, text.status.started);
  const notes = setInterval(() => say(thread, progress(message)), NOTE_MS);
  try {
    await listen(thread, message, control.signal);
  } finally {
    clearInterval(notes);
  }
  if (followers.get(message.id) === control) followers.delete(message.id);
  if (message.streaming || message.retryAt.value) return;
  drop(thread.id);
  if (message.data.value.status === 'complete') awaitTitle(thread);
}

async function listen(thread, message, signal) {
  let last = null;
  for (let attempt = 0; message.streaming && !signal.aborted; attempt += 1) {
    try {
      for await (const event of events(`/web/answers/${message.id}/events`, last, signal)) {
        attempt = 0;
        last = event.id;
        message.lost.value = false;
        take(thread, message, event);
      }
    } catch (error) {
      if (error.name === 'AbortError' || handled(error)) return;
      if (error.status === 404) {
        forget(thread.id);
        return;
      }
    }
    if (message.streaming && !signal.aborted) {
      message.lost.value = true;
      await new Promise((done) => setTimeout(done, Math.min(8000, 500 * 2 ** attempt)));
    }
  }
}

function take(thread, message, { kind, data }) {
  if (kind === 'text') message.append(data.text);
  else if (kind === 'snapshot') message.update(data.message);
  else {
    if (data.problem) showProblem(data.problem);
    finish(thread, message, data.message);
  }
}

export function finish(thread, message, data) {
  message.lost.value = false;
  message.update(data);
  say(thread, text.status[data.status] ?? '');
  if (data.error?.code === 'at_capacity') goOnLater(thread, message, data.error.retry_after_seconds);
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

// The wait goes on while another conversation is read.
function goOnLater(thread, message, seconds) {
  const at = Date.now() + waitSeconds(seconds) * 1000;
  message.retryAt.value = at;
  state.live.value = new Map(state.live.value).set(thread.id, thread);
  setTimeout(() => message.retryAt.value === at && goOn(thread, message), at - Date.now());
}

export function giveUp(thread, message) {
  message.retryAt.value = null;
  drop(thread.id);
}

// Something else is asked now.
export function stopWaiting(thread) {
  for (const message of thread.tree.value) message.retryAt.value = null;
}

export function forget(conversationId) {
  const thread = state.live.value.get(conversationId);
  if (thread) {
    followers.get(thread.writing.value?.id)?.abort();
    stopWaiting(thread);
  }
  drop(conversationId);
}

function drop(conversationId) {
  const rest = new Map(state.live.value);
  rest.delete(conversationId);
  state.live.value = rest;
}

// What is heard concerns what is open.
function say(thread, line) {
  if (state.thread.value === thread) state.status.value = line;
}

function progress({ reply, said }) {
  if (reply.part.value === 'thinking') return text.status.thinking;
  return text.status.writing(said.split(/\s+/).filter(Boolean).length);
}
