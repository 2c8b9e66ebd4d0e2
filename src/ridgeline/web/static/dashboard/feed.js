// Asks the server how it is, once a second while anybody looks, and remembers some minutes of it.
import { ApiError, call, keepKey, setKey } from '../api.js';
import { batch, signal } from '../lib.js';

const EVERY_MS = 1000;
const RETRY_MS = 2000;
const KEPT_MS = 10 * 60_000;

export const models = signal(null); // what `/dashboard/live` says, by model; null before it has answered
export const past = signal({}); // samples by model, oldest first: {at, values, quantiles}
export const trouble = signal(null); // {code, since} while the server does not answer
export const hidden = signal(document.hidden);
export const needsKey = signal(false);
export const keyFailed = signal(false);

let timer = null;

export function start() {
  document.addEventListener('visibilitychange', () => {
    hidden.value = document.hidden;
    clearTimeout(timer);
    if (!document.hidden) ask();
  });
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

async function ask() {
  clearTimeout(timer);
  try {
    take((await call('GET', '/dashboard/live')).models);
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    if (error.code === 'invalid_api_key') {
      needsKey.value = true;
      return; // `login` asks again
    }
    trouble.value = { code: error.code, status: error.status, since: trouble.value?.since ?? Date.now() };
  }
  if (!document.hidden) timer = setTimeout(ask, trouble.value ? RETRY_MS : EVERY_MS);
}

function take(found) {
  const at = Date.now();
  const kept = {};
  for (const [name, live] of Object.entries(found)) {
    const before = (past.value[name] ?? []).filter((sample) => at - sample.at < KEPT_MS);
    kept[name] = [...before, { at, values: live.values, quantiles: live.recent.quantiles }];
  }
  batch(() => {
    models.value = found;
    past.value = kept;
    trouble.value = null;
    keyFailed.value = false;
  });
}
