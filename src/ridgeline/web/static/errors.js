// What becomes of an error: a page to sign in, a card above the box, a countdown, a toast.
import { ApiError } from './api.js';
import * as state from './state.js';
import { text } from './text.js';

const RETRY_SECONDS = 5;
// The same text again would be refused again.
const FINAL = ['context_length_exceeded', 'request_too_large', 'invalid_request', 'model_not_found'];

// Errors that concern the whole page; false leaves it to the caller.
export function handled(error) {
  if (!(error instanceof ApiError) || error.code !== 'invalid_api_key') return false;
  state.phase.value = 'login';
  return true;
}

export function waitSeconds(seconds) {
  // Everybody who was refused gets the same number; a little noise keeps them apart.
  return Math.max(1, (seconds ?? RETRY_SECONDS) * (1 + 0.2 * Math.random()));
}

// Shows why what is in the box was not taken; `retry` sends it again.
export function fail(error, retry) {
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

export function tell(error) {
  if (!handled(error)) state.notice.value = { error, retry: null, retryAt: null };
}

export function showProblem(problem) {
  showToast({ text: problem, seconds: null });
}

let toastTimer;
export function showToast(toast) {
  clearTimeout(toastTimer);
  state.toast.value = toast;
  if (toast?.seconds) toastTimer = setTimeout(() => (state.toast.value = null), toast.seconds * 1000);
}
