// Numbers as people read them.

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const compact = new Intl.NumberFormat('en', { notation: 'compact', maximumSignificantDigits: 3 });
const digits = (value) => new Intl.NumberFormat('en', { maximumSignificantDigits: value < 1000 ? 3 : 4 }).format(value);

export const count = (value) => (value < 100_000 ? whole : compact).format(value);

export function percent(share) {
  if (share > 0 && share < 0.005) return '<1%';
  return `${Math.round(share * 100)}%`;
}

export function seconds(value) {
  if (value === 0) return '0 s';
  if (value < 0.001) return `${digits(value * 1e6)} µs`;
  if (value < 1) return `${digits(value * 1e3)} ms`;
  return value < 600 ? `${digits(value)} s` : `${digits(value / 60)} min`;
}

const PREFIXES = [['P', 1e15], ['T', 1e12], ['G', 1e9], ['M', 1e6], ['k', 1e3], ['', 1]];

export function amount(value, unit) {
  const [prefix, size] = PREFIXES.find(([, size]) => value >= size) ?? PREFIXES.at(-1);
  return `${digits(value / size)} ${prefix}${unit}`;
}

export const number = digits;
