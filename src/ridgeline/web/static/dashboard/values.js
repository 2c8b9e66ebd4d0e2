// What the snapshot's figures are called, in one place.

// A value that is absent is undefined, one that is infinite is null.
export const gauge = (live, name, label) => live.values[label === undefined ? `ridgeline_${name}` : `ridgeline_${name}{${label}}`];

// How far a counter rose in the last minute.
export const rise = (live, name, label) =>
  live.recent.counters[label === undefined ? `ridgeline_${name}` : `ridgeline_${name}{${label}}`] ?? 0;

export const quantiles = (live, name) => live.recent.quantiles[`ridgeline_${name}`] ?? null;

// The values of a label, with what stands there: `labels(live.values, 'requests_total')` gives {stop: 3}.
export function labels(values, name) {
  const start = `ridgeline_${name}{`;
  const found = Object.entries(values).filter(([key]) => key.startsWith(start));
  return Object.fromEntries(found.map(([key, value]) => [key.slice(start.length, -1), value]));
}

// A step, from the numbers of `telemetry.live.Point`.
export function step([age, seconds, , flops, bytes, , tokens, promptTokens]) {
  const kind = promptTokens === 0 ? 'writing' : promptTokens === tokens ? 'reading' : 'both';
  return { age, seconds, intensity: flops / bytes, rate: flops / seconds, kind };
}
