// What is typed and not yet sent, kept per conversation for as long as the tab lives.
import * as state from './state.js';

const DRAFT = 'ridgeline.draft';

function key() {
  return `${DRAFT}:${state.thread.value?.id ?? 'new'}`;
}

export function saveDraft(value) {
  state.draft.value = value;
  try {
    if (value) sessionStorage.setItem(key(), value);
    else sessionStorage.removeItem(key());
  } catch {
    // full or forbidden; the box itself still has it
  }
}

export function loadDraft() {
  try {
    return sessionStorage.getItem(key()) ?? '';
  } catch {
    return '';
  }
}
