// Where a conversation stands in the list; nothing here talks to the server.
import { batch, signal } from './lib.js';
import * as state from './state.js';
import { text } from './text.js';

const newestFirst = (a, b) => b.updated_ms - a.updated_ms;

function without(rows, id) {
  return rows.filter((row) => row.id !== id);
}

// Takes in what the server says of a conversation, wherever it is shown.
export function listed(conversation) {
  batch(() => {
    for (const thread of [state.thread.value, state.live.value.get(conversation.id)]) {
      if (thread?.id === conversation.id) thread.conversation.value = conversation;
    }
    if (conversation.temporary) return;
    const pinned = without(state.pinned.value, conversation.id);
    const rest = without(state.conversations.value, conversation.id);
    // Older ones than those shown come with the next page.
    const shown = !state.moreConversations.value || conversation.updated_ms >= (rest.at(-1)?.updated_ms ?? 0);
    if (conversation.pinned) pinned.push(conversation);
    else if (shown) rest.push(conversation);
    state.pinned.value = pinned.sort(newestFirst);
    state.conversations.value = rest.sort(newestFirst);
  });
}

export function unlisted(id) {
  batch(() => {
    state.pinned.value = without(state.pinned.value, id);
    state.conversations.value = without(state.conversations.value, id);
  });
}

export function firstPage({ pinned = [], conversations, more }) {
  batch(() => {
    state.pinned.value = pinned;
    state.conversations.value = conversations;
    state.moreConversations.value = more;
  });
}

export function nextPage({ conversations, more }) {
  const known = new Set(state.conversations.value.map((row) => row.id));
  batch(() => {
    state.conversations.value = [...state.conversations.value, ...conversations.filter((row) => !known.has(row.id))];
    state.moreConversations.value = more;
  });
}

// The first page once more, after a while; what was loaded beyond it stays.
export function renewed({ pinned, conversations, more }) {
  const known = new Set([...pinned, ...conversations].map((row) => row.id));
  const oldest = conversations.at(-1)?.updated_ms ?? 0;
  const rest = more ? state.conversations.value.filter((row) => row.updated_ms < oldest && !known.has(row.id)) : [];
  batch(() => {
    state.pinned.value = pinned;
    state.conversations.value = [...conversations, ...rest];
    if (!rest.length) state.moreConversations.value = more;
  });
}

// --- Groups by date -----------------------------------------------------------------------------

// The beginning of this day; tabs stay open over midnight.
export const today = signal(beginOfDay(new Date()));
setInterval(() => (today.value = beginOfDay(new Date())), 60_000);
document.addEventListener('visibilitychange', () => (today.value = beginOfDay(new Date())));

function beginOfDay(date, days = 0) {
  // Days of 23 and 25 hours begin at midnight too.
  return new Date(date.getFullYear(), date.getMonth(), date.getDate() - days).getTime();
}

export function dayOf(ms) {
  if (ms >= today.value) return text.list.today;
  return ms >= beginOfDay(new Date(today.value), 1) ? text.list.yesterday : text.list.dayOf(new Date(ms));
}

// Rows, newest first, as [{label, rows}] of the days and months they belong to.
export function byDate(rows, todayMs) {
  const day = new Date(todayMs);
  const bounds = [
    [todayMs, text.list.today],
    [beginOfDay(day, 1), text.list.yesterday],
    [beginOfDay(day, 7), text.list.week],
    [beginOfDay(day, 30), text.list.month],
  ];
  const groups = [];
  for (const row of rows) {
    const label = bounds.find(([from]) => row.updated_ms >= from)?.[1] ?? text.list.monthOf(new Date(row.updated_ms));
    if (groups.at(-1)?.label === label) groups.at(-1).rows.push(row);
    else groups.push({ label, rows: [row] });
  }
  return groups;
}
