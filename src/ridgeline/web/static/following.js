// Following an answer as it is written, through lost connections and lost servers, and going on with one
// that is not whole: by hand, or by itself where the server said how long to wait.
import { ApiError, events } from './api.js';
import { fail, handled, showProblem, waitSeconds } from './errors.js';
import { askFor, callAbout, mayPass, Patience, putBack, silentMs } from './resuming.js';
import * as state from './state.js';
import { text } from './text.js';
import { awaitTitle } from './titles.js';

const NOTE_MS = 7000; // between two notes for those who hear the page
const STALE_MS = 600_000; // a question of longer ago is not asked again without being told to

const followers = new Map();

// What was going on in a conversation when it was left goes on.
export function resume(thread) {
  const { writing, last } = thread;
  if (writing.value) {
    if (!followers.has(writing.value.id)) follow(thread, writing.value);
  } else if (last?.data.value.error?.code === 'at_capacity' && !last.retryAt.value && Date.now() - last.createdMs < STALE_MS) {
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
  const patience = new Patience();
  let last = null;
  while (message.streaming && !signal.aborted) {
    let error = null;
    let ended = null;
    try {
      if (message.lost.value) await rejoin(thread, message, signal);
      for await (const event of events(`/web/answers/${message.id}/events`, last, signal, silentMs())) {
        if (event.kind === 'open') {
          message.lost.value = false;
          continue;
        }
        last = event.id;
        if (event.kind === 'end') ended = event.data;
        else if (take(message, event)) patience.renew();
      }
    } catch (failure) {
      if (failure.name === 'AbortError' || handled(failure)) return;
      if (!(failure instanceof ApiError)) throw failure;
      error = failure;
    }
    if (signal.aborted) return;
    if (ended) {
      const again = isLost(ended.message, patience) && (await lost(thread, message, patience, null, signal));
      if (!again && !signal.aborted) settle(thread, message, ended);
    } else {
      const again = (!error || mayPass(error)) && (await lost(thread, message, patience, error, signal));
      if (!again && !signal.aborted) breakOff(thread, message, error);
    }
  }
}

// True where the answer has grown.
function take(message, { kind, data }) {
  if (kind === 'text') message.append(data.text);
  else if (data.message.status === 'streaming') message.update(data.message); // else its end follows
  return kind === 'text';
}

// Waits before the connection is tried again; what there is of the answer stays.
function lost(thread, message, patience, error, signal) {
  if (patience.tries === 0) say(thread, text.status.lost);
  message.lost.value = true;
  return patience.wait(error, signal);
}

// Of an answer that has ended: whether it was the server that did, or one that has come back is not ready yet.
function isLost({ error }, patience) {
  if (error?.code === 'server_stopped') return true;
  return patience.tries > 0 && ['no_replica', 'shutting_down'].includes(error?.code);
}

// Some server goes on with the answer, unless somebody else has made it do so: then it is followed.
async function rejoin(thread, message, signal) {
  const { answer } = await reach(thread, message, () => callAbout(message, 'continue', { automatic: true }, signal));
  message.data.value = { ...message.data.value, run: answer.run };
}

// A server that has not heard of a temporary chat is told of it.
async function reach(thread, message, what) {
  try {
    return await what();
  } catch (error) {
    if (error.status !== 404 || !thread.conversation.value.temporary) throw error;
  }
  await putBack(thread, message);
  return what();
}

function settle(thread, message, { message: data, problem }) {
  if (problem) showProblem(problem);
  finish(thread, message, data);
}

// Trying again does not help, or has not: it is told as any other error.
function breakOff(thread, message, error) {
  message.brokenOff = true;
  const { code, message: words, retryAfterSeconds } = error ?? { code: 'server_stopped', message: '' };
  finish(thread, message, {
    ...asShown(message),
    status: 'failed',
    error: {
      code: error?.status === 404 ? 'server_stopped' : code,
      message: words,
      retry_after_seconds: retryAfterSeconds ?? null,
    },
  });
}

const asShown = (message) => ({ ...message.data.value, content: message.content });

export function finish(thread, message, data) {
  message.lost.value = false;
  message.update(data);
  say(thread, text.status[data.status] ?? '');
  if (data.error?.code === 'at_capacity') goOnLater(thread, message, data.error.retry_after_seconds);
}

// Stops an answer whose server does not answer: it stays as it is, and the server is told when it is back.
export async function stopLost(thread, message) {
  followers.get(message.id)?.abort();
  finish(thread, message, { ...asShown(message), status: 'stopped', error: null });
  const patience = new Patience();
  let error = null;
  do {
    try {
      const { answer } = await reach(thread, message, () => callAbout(message, 'stop'));
      if (message.data.value.status === 'stopped') message.update(answer);
      return;
    } catch (failure) {
      if (handled(failure) || !mayPass(failure)) return;
      error = failure;
    }
  } while ((await patience.wait(error)) && message.data.value.status === 'stopped');
}

export async function goOn(thread, message) {
  message.retryAt.value = null;
  if (message.brokenOff) {
    // What has become of it only a server knows.
    message.brokenOff = false;
    message.update({ ...message.data.value, status: 'streaming', error: null });
    message.lost.value = true;
    return void follow(thread, message);
  }
  try {
    const { answer } = await askFor(() => callAbout(message, 'continue'));
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

function progress({ lost, reply, said }) {
  if (lost.value) return text.status.lost;
  if (reply.part.value === 'thinking') return text.status.thinking;
  return text.status.writing(said.split(/\s+/).filter(Boolean).length);
}
