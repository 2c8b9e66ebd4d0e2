// Asks the server for one thing again and again while anybody looks, and people for a key where it wants one.
import { ApiError, call, keepKey, setKey } from '../api.js';
import { batch, signal } from '../lib.js';

const EVERY_MS = 1000;
const RETRY_MS = 2000;

// `take` is handed what comes; `refusal` is the code by which the server wants a key, or another one.
export function polling(path, take, refusal = 'invalid_api_key') {
  const trouble = signal(null); // {code, status, since} while the server does not answer
  const hidden = signal(document.hidden);
  const needsKey = signal(false);
  const keyFailed = signal(false);
  let timer = null;

  function start() {
    document.addEventListener('visibilitychange', () => {
      hidden.value = document.hidden;
      clearTimeout(timer);
      if (!document.hidden) ask();
    });
    return ask();
  }

  // `keep`: whether to keep the key on this device.
  async function login(key, keep) {
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
      const found = await call('GET', path);
      batch(() => {
        take(found);
        trouble.value = null;
        keyFailed.value = false;
      });
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      if (error.code === refusal) {
        needsKey.value = true;
        return; // `login` asks again
      }
      trouble.value = { code: error.code, status: error.status, since: trouble.value?.since ?? Date.now() };
    }
    if (!document.hidden) timer = setTimeout(ask, trouble.value ? RETRY_MS : EVERY_MS);
  }

  return { trouble, hidden, needsKey, keyFailed, start, login };
}
