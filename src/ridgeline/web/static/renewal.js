// What was done in another tab or on another device, taken in when the reader comes back to this one.
import { ApiError, call } from './api.js';
import { handled } from './errors.js';
import { resume } from './following.js';
import { batch } from './lib.js';
import { listed, renewed } from './list.js';
import { editing } from './question.js';
import * as state from './state.js';

export function renewOnReturn() {
  document.addEventListener('visibilitychange', () => document.visibilityState === 'visible' && renew());
  window.addEventListener('focus', renew); // windows side by side are both visible all the time
  window.addEventListener('online', renew);
}

let renewing = false;
async function renew() {
  if (renewing || state.phase.value !== 'ready') return;
  renewing = true;
  try {
    renewed(await call('GET', '/web/conversations'));
    await renewOpen(state.thread.value);
  } catch (error) {
    // Where the server does not answer, what is there stays.
    if (!(error instanceof ApiError)) throw error;
    handled(error);
  } finally {
    renewing = false;
  }
}

// What is being written follows the server by itself, and what is being edited is not moved away.
const atRest = (thread) =>
  thread && state.thread.value === thread && !thread.writing.value && !state.sending.value && editing.value === null;

async function renewOpen(thread) {
  if (!atRest(thread)) return;
  try {
    if (await isCurrent(thread)) return;
    const { conversation, messages } = await call('GET', `/web/conversations/${thread.id}`);
    if (!atRest(thread)) return;
    batch(() => {
      thread.take(conversation, messages);
      listed(conversation);
    });
    resume(thread);
  } catch (error) {
    if (error.status !== 404) throw error;
    // Of a temporary chat that is gone the screen has the only copy.
    if (atRest(thread) && !thread.conversation.value.temporary) {
      batch(() => {
        state.thread.value = null;
        state.missing.value = true;
      });
    }
  }
}

// Without its messages, which may be many. An answer that is not whole may have been continued.
async function isCurrent(thread) {
  const { status, finish } = thread.last?.data.value ?? {};
  if (status && (status !== 'complete' || finish === 'length')) return false;
  const before = thread.conversation.value.updated_ms;
  const { conversation } = await call('GET', `/web/conversations/${thread.id}/title`);
  return conversation.updated_ms === before && [null, thread.leafId.value].includes(conversation.leaf_id);
}
