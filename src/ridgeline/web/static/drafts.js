// What is typed and not yet sent, kept per conversation for as long as the tab lives.
import * as state from './state.js';

const DRAFT = 'ridgeline.draft';

function key(id = state.thread.value?.id) {
  return `${DRAFT}:${id ?? 'new'}`;
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

// Of a conversation that need not be the open one; without an id, of the chat to begin.
export function dropDraft(id) {
  try {
    sessionStorage.removeItem(key(id ?? null));
  } catch {
    // it was not there
  }
}
