// How the server is, once a second while anybody looks, and some minutes of it.
import { signal } from '../lib.js';
import { polling } from './poll.js';

const KEPT_MS = 10 * 60_000;

export const models = signal(null); // what `/dashboard/live` says, by model; null before it has answered
export const past = signal({}); // samples by model, oldest first: {at, values, quantiles}

export const feed = polling('/dashboard/live', ({ models: found }) => {
  const at = Date.now();
  const kept = {};
  for (const [name, live] of Object.entries(found)) {
    const before = (past.value[name] ?? []).filter((sample) => at - sample.at < KEPT_MS);
    kept[name] = [...before, { at, values: live.values, quantiles: live.recent.quantiles }];
  }
  models.value = found;
  past.value = kept;
});
