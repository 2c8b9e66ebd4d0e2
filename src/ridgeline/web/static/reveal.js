// Leads the reader to the message that a search has found.
import { newestLeaf } from './branches.js';
import { batch } from './lib.js';
import { sought, thread } from './state.js';

const MARKED_MS = 2500;

// Shows the branch that the message stands in, and scrolls to it.
export function reveal() {
  const id = sought.value;
  const open = thread.value;
  const found = open?.tree.value.find((message) => message.id === id);
  if (!found) return;
  batch(() => {
    sought.value = null;
    if (!open.messages.value.includes(found)) open.leafId.value = newestLeaf(open.tree.value, id);
  });
  // The thread first scrolls to its end, as it does whenever one is opened.
  requestAnimationFrame(() => requestAnimationFrame(() => mark(document.getElementById(`message-${id}`))));
}

function mark(row) {
  if (!row) return;
  row.tabIndex = -1;
  row.focus({ preventScroll: true });
  row.scrollIntoView({ block: row.clientHeight > innerHeight / 2 ? 'start' : 'center' });
  row.classList.add('found');
  setTimeout(() => row.classList.remove('found'), MARKED_MS);
}
