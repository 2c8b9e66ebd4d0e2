// The model names a conversation after its first answer; the server says when it has.
import { call } from './api.js';
import { listed } from './list.js';

const asked = new Set();

export async function awaitTitle(thread) {
  const { id, title_by: by, temporary } = thread.conversation.value;
  if (temporary || by !== 'first' || asked.has(id)) return;
  asked.add(id);
  try {
    const { conversation } = await call('GET', `/web/conversations/${id}/title?wait=true`);
    // Whoever has renamed it meanwhile knows better.
    if (thread.conversation.value.title_by === 'first') {
      listed({ ...thread.conversation.value, title: conversation.title, title_by: conversation.title_by });
    }
  } catch {
    // the first words are a title too
  }
}
