// Leads the reader to what a search has found.
import { newestLeaf } from './branches.js';
import { batch } from './lib.js';
import { sought, thread } from './state.js';

const MARKED_MS = 4000;

// Shows the branch that the message stands in, and scrolls to the words.
export function reveal() {
  const place = sought.value;
  const open = thread.value;
  const found = place && open?.tree.value.find((message) => message.id === place.id);
  if (!found) return;
  batch(() => {
    sought.value = null;
    if (!open.messages.value.includes(found)) open.leafId.value = newestLeaf(open.tree.value, found.id);
  });
  // The thread first scrolls to its end, as it does whenever one is opened.
  requestAnimationFrame(() =>
    requestAnimationFrame(() => mark(document.getElementById(`message-${found.id}`), place.match)),
  );
}

function mark(row, match) {
  if (!row) return;
  const ranges = rangesOf(row, match);
  const target = ranges[0]?.startContainer.parentElement ?? row;
  const folded = target.closest('details');
  if (folded) folded.open = true;
  row.tabIndex = -1;
  row.focus({ preventScroll: true });
  target.scrollIntoView({ block: target.clientHeight > innerHeight / 2 ? 'start' : 'center' });
  row.classList.add('found');
  // Marks the words without touching the elements that they stand in.
  CSS.highlights?.set('found', new Highlight(...ranges));
  setTimeout(() => {
    row.classList.remove('found');
    CSS.highlights?.delete('found');
  }, MARKED_MS);
}

function rangesOf(row, match) {
  const wanted = match.toLowerCase();
  const walker = document.createTreeWalker(row, NodeFilter.SHOW_TEXT);
  const ranges = [];
  if (!wanted) return ranges;
  while (walker.nextNode()) {
    const node = walker.currentNode;
    const text = node.data.toLowerCase();
    if (text.length !== node.data.length) continue; // places would be others, as with a Turkish İ
    for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + wanted.length)) {
      const range = new Range();
      range.setStart(node, at);
      range.setEnd(node, at + wanted.length);
      ranges.push(range);
    }
  }
  return ranges;
}
