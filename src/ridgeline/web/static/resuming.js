// What to do when a server is lost: try again, with growing pauses, for as long as that may help.
import { call } from './api.js';
import * as state from './state.js';

const FIRST_MS = 250;
const LONGEST_MS = 5000;
const ANSWERED = 12; // tries that somebody answered, and that have led to nothing
const SHORT = 5; // the same, where somebody waits to see the message taken
const SILENT_HEARTBEATS = 3; // as at the server
const GATEWAY = [502, 503, 504];

// No byte for so long, and the connection is lost.
export const silentMs = () => (state.session.value?.heartbeat_seconds ?? 5) * SILENT_HEARTBEATS * 1000;

// Whether another try may reach another server, or this one in another state.
export function mayPass({ code, status }) {
  if (['unreachable', 'shutting_down', 'no_replica'].includes(code)) return true;
  return code === 'internal_error' && GATEWAY.includes(status); // a proxy's words about the server behind it
}

export class Patience {
  constructor(limit = ANSWERED) {
    this.limit = limit;
    this.renew();
  }

  renew() {
    this.tries = 0;
    this.answered = 0;
  }

  // Waits before the next try; false where there should be none. Silence is waited out for ever.
  async wait(error, signal) {
    if (error?.code !== 'unreachable') this.answered += 1;
    if (this.answered > this.limit) return false;
    // Everybody has lost the same server; a little noise keeps them apart.
    const pause = Math.min(LONGEST_MS, FIRST_MS * 2 ** this.tries) * (0.75 + 0.5 * Math.random());
    this.tries += 1;
    await new Promise((done) => {
      const timer = setTimeout(done, pause);
      signal?.addEventListener('abort', () => (clearTimeout(timer), done()), { once: true });
    });
    return true;
  }
}

// A call about an answer; what the page has of it goes along, for it may be more than what was saved.
export function callAbout(message, verb, more = {}, signal = undefined) {
  const body = { run: message.data.value.run, text: message.content, ...more };
  const silence = AbortSignal.timeout(silentMs());
  return call('POST', `/web/answers/${message.id}/${verb}`, body, signal ? AbortSignal.any([signal, silence]) : silence);
}

// A temporary chat was in its lost server's memory: the page has the only copy.
export async function putBack(thread, message) {
  const body = { ...described(thread), messages: thread.tree.value.map(copied) };
  await call('POST', '/web/temporary', body, AbortSignal.timeout(silentMs()));
  message.data.value = { ...message.data.value, run: null };
}

function described({ conversation, model, leafId }) {
  const { id, title, title_by, settings, created_ms, updated_ms } = conversation.value;
  return { id, title, title_by, settings, created_ms, updated_ms, model: model.value, leaf_id: leafId.value };
}

function copied({ id, parentId, role, content, createdMs, data }) {
  const { status, model, finish, error } = data.value;
  const cut = status === 'streaming';
  return {
    id,
    parent_id: parentId,
    role,
    content,
    created_ms: createdMs,
    model,
    finish,
    status: cut ? 'interrupted' : status,
    error: cut ? { code: 'server_stopped', message: '' } : error && { code: error.code, message: error.message },
  };
}

// Asks for an answer: a server that is shutting down has taken nothing, and the next try may reach another.
export async function askFor(what) {
  const patience = new Patience(SHORT);
  for (;;) {
    try {
      return await what();
    } catch (error) {
      if (error.code !== 'shutting_down' || !(await patience.wait(error))) throw error;
    }
  }
}
