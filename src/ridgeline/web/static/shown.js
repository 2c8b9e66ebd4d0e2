// Which conversation is on the page.
import { loadDraft } from './drafts.js';
import { batch } from './lib.js';
import * as state from './state.js';

export function showNew() {
  batch(() => {
    state.thread.value = null;
    state.missing.value = false;
    state.notice.value = null;
    state.draft.value = loadDraft();
  });
}

export function present(thread) {
  batch(() => {
    state.thread.value = thread;
    state.missing.value = false;
    state.notice.value = null;
    state.pickedModel.value = null;
    state.draft.value = loadDraft();
  });
}
