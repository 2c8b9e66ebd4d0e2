// The list beside the conversation: hidden or shown where there is room, a drawer where there is not.
import { effect, signal } from './lib.js';
import { drawer, listHidden } from './state.js';

const HIDDEN = 'ridgeline.list-hidden';
const query = matchMedia('(max-width: 820px)');

export const narrow = signal(query.matches);
query.addEventListener('change', () => (narrow.value = query.matches));

try {
  listHidden.value = localStorage.getItem(HIDDEN) === 'yes';
  effect(() => localStorage.setItem(HIDDEN, listHidden.value ? 'yes' : 'no'));
} catch {
  // storage may be forbidden; the list is then shown again after the next load
}

export function listShown() {
  return narrow.value ? drawer.value : !listHidden.value;
}

export function showList() {
  if (narrow.value) drawer.value = true;
  else listHidden.value = false;
  focusSoon(() => document.querySelector('#conversations button'));
}

export function hideList() {
  if (narrow.value) drawer.value = false;
  else listHidden.value = true;
  focusSoon(() => document.getElementById('open-list'));
}

export function toggleList() {
  if (listShown()) hideList();
  else showList();
}

function focusSoon(find) {
  requestAnimationFrame(() => requestAnimationFrame(() => find()?.focus()));
}
