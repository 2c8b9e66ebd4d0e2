// Light, dark, or as the system has it; kept on this device. loading.js has it there before anything
// is drawn.
import { effect, signal } from './lib.js';

const KEPT = 'ridgeline.appearance';
export const CHOICES = ['system', 'light', 'dark'];

const root = document.documentElement;
const known = (choice) => (CHOICES.includes(choice) ? choice : 'system');
export const appearance = signal(known(root.dataset.appearance));

addEventListener('storage', ({ key, newValue }) => {
  if (key === KEPT) appearance.value = known(newValue); // chosen in another tab
});

effect(() => {
  const choice = appearance.value;
  root.dataset.appearance = choice;
  // The browser's own bars: of the colours for both schemes, the one that is wanted.
  for (const meta of document.querySelectorAll('meta[name="theme-color"]')) {
    const scheme = meta.dataset.scheme;
    meta.media = choice === 'system' ? `(prefers-color-scheme: ${scheme})` : choice === scheme ? 'all' : 'not all';
  }
  try {
    localStorage.setItem(KEPT, choice);
  } catch {
    // storage may be forbidden; the choice then lasts until the next load
  }
});
