// A conversation is a tree: an edited message and an answer made anew stand beside the old ones.
// What is shown is the path from a first message to one leaf. Nothing here knows signals or pages;
// a message is anything with id, parentId, role, createdMs.

function byParent(messages) {
  const children = new Map();
  for (const message of messages) {
    if (!children.has(message.parentId)) children.set(message.parentId, []);
    children.get(message.parentId).push(message);
  }
  // The sort is stable: of the same millisecond, the order in which the server told them.
  for (const group of children.values()) group.sort((a, b) => a.createdMs - b.createdMs);
  return children;
}

function newest(messages) {
  return messages.reduce((best, message) => (best && best.createdMs > message.createdMs ? best : message), null);
}

// From the first message to the leaf; without a known leaf, to the newest message of all.
export function pathTo(messages, leafId) {
  const byId = new Map(messages.map((message) => [message.id, message]));
  const path = [];
  let next = byId.get(leafId) ?? newest(messages);
  while (next) {
    path.push(next);
    byId.delete(next.id); // a circle would have no end
    next = byId.get(next.parentId);
  }
  return path.reverse();
}

// For each message of a path, the versions that it is one of, oldest first.
export function versionsAlong(messages, path) {
  const children = byParent(messages);
  return path.map((message) => children.get(message.parentId)?.filter((other) => other.role === message.role) ?? [message]);
}

// The leaf that was written last below a message, or the message itself.
export function newestLeaf(messages, id) {
  const children = byParent(messages);
  const found = [];
  const todo = messages.filter((message) => message.id === id);
  while (todo.length) {
    const message = todo.pop();
    const below = children.get(message.id) ?? [];
    if (below.length === 0) found.push(message);
    todo.push(...below);
  }
  return newest(found)?.id ?? id;
}
