// Asks the server for one timeline, and again while the request is not over.
import { ApiError, call, keepKey, setKey } from '../api.js';
import { batch, signal } from '../lib.js';

const EVERY_MS = 1000;

export const asked = signal(new URLSearchParams(location.search).get('id') ?? '');
export const found = signal(null); // what the server says of it
export const trouble = signal(null); // a sentence
export const asking = signal(false);
export const needsKey = signal(false);
export const keyFailed = signal(false);

let timer = null;

export function start() {
  addEventListener('popstate', () => {
    asked.value = new URLSearchParams(location.search).get('id') ?? '';
    ask();
  });
  document.addEventListener('visibilitychange', () => {
    if (!document.hidden && isGoingOn()) ask();
  });
  return ask();
}

export function explain(id) {
  asked.value = id;
  history.pushState(null, '', `/explain?id=${encodeURIComponent(id)}`);
  return ask();
}

// `keep`: whether to keep the key on this device.
export async function login(key, keep) {
  setKey(key.trim());
  keyFailed.value = false;
  needsKey.value = false;
  await ask();
  if (needsKey.value) {
    setKey(null);
    keyFailed.value = true;
  } else keepKey(keep);
}

const isGoingOn = () =>
  found.value?.requests.some((request) => request.answers.some(({ state }) => state === 'waiting' || state === 'running'));

async function ask() {
  clearTimeout(timer);
  const id = asked.value;
  if (found.value?.id !== id) found.value = null;
  trouble.value = null;
  // Without an id there is nothing to ask for, and no key is needed to be told so.
  if (!id) return;
  asking.value = true;
  try {
    const timeline = await call('GET', `/v1/requests/${encodeURIComponent(id)}/timeline`);
    if (asked.value !== id) return;
    batch(() => {
      found.value = timeline;
      keyFailed.value = false;
    });
    if (isGoingOn() && !document.hidden) timer = setTimeout(ask, EVERY_MS);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (asked.value !== id) return;
    if (error.code === 'invalid_api_key') needsKey.value = true;
    else trouble.value = error;
  } finally {
    asking.value = false;
  }
}
