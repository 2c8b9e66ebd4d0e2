// The keyboard shortcuts, in one table: what listens, lists and hints at them reads it.
import { text } from './text.js';

const mac = /Mac|iPhone|iPad/.test(navigator.platform);

// `Command` is the key that goes with letters: ⌘ on a Mac, Control elsewhere. `listed` ones are
// told in the list only, for whatever has the focus listens to them itself.
export const KEYS = [
  { id: 'newChat', group: 'chats', keys: ['Command', 'Shift', 'O'] },
  { id: 'search', group: 'chats', keys: ['Command', 'K'], overDialogs: true },
  { id: 'list', group: 'chats', keys: ['Command', 'Shift', 'S'] },
  { id: 'focus', group: 'answer', keys: ['Shift', 'Escape'] },
  { id: 'send', group: 'answer', keys: ['Enter'], listed: true },
  { id: 'line', group: 'answer', keys: ['Shift', 'Enter'], listed: true },
  { id: 'stop', group: 'answer', keys: ['Escape'], listed: true },
  { id: 'edit', group: 'answer', keys: ['ArrowUp'], listed: true },
  { id: 'copyAnswer', group: 'answer', keys: ['Command', 'Shift', 'C'] },
  { id: 'copyCode', group: 'answer', keys: ['Command', 'Shift', ';'] },
  { id: 'settings', group: 'page', keys: ['Command', 'Shift', ','], overDialogs: true },
  { id: 'shortcuts', group: 'page', keys: ['Command', '/'], overDialogs: true },
];

const CODES = { ';': 'Semicolon', ',': 'Comma', '/': 'Slash' };

export function keyNames(keys) {
  return keys.map((key) => text.keys.names[key === 'Command' ? (mac ? 'Meta' : 'Control') : key] ?? key);
}

export function hint(id) {
  return keyNames(KEYS.find((entry) => entry.id === id).keys).join(mac ? '' : ' ');
}

export function matches(event, keys) {
  const command = mac ? event.metaKey : event.ctrlKey;
  const other = mac ? event.ctrlKey : event.metaKey;
  if (other || event.altKey || command !== keys.includes('Command')) return false;
  const last = keys.at(-1);
  // With Shift, or on another layout, a sign comes from another key or under another name.
  if (last in CODES) return event.key === last || (event.code === CODES[last] && event.shiftKey === keys.includes('Shift'));
  if (event.shiftKey !== keys.includes('Shift')) return false;
  // Layouts without Latin letters keep their places.
  const latin = /^[a-z]$/i.test(event.key);
  return event.key.toUpperCase() === last.toUpperCase() || (!latin && event.code === `Key${last}`);
}
