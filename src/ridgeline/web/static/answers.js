// Asking, asking otherwise, having another answer, stopping one, and passing between versions.
import { call } from './api.js';
import { newestLeaf } from './branches.js';
import { dropDraft, saveDraft } from './drafts.js';
import { cancelRetry, fail, handled, tell } from './errors.js';
import { finish, follow, stopLost, stopWaiting } from './following.js';
import { batch } from './lib.js';
import { listed } from './list.js';
import { askFor, callAbout, mayPass } from './resuming.js';
import { present } from './shown.js';
import * as state from './state.js';

export async function send() {
  const thread = state.thread.value;
  const place = thread ? { parent_id: thread.last?.id ?? null } : beginning();
  await post(thread, state.draft.value, place, () => send(), '');
}

// One of the prompts that are offered; what somebody is writing meanwhile stays in the box.
export async function sendExample(prompt) {
  if (!state.draft.value.trim()) {
    state.draft.value = prompt;
    await send();
  } else await post(null, prompt, beginning(), () => sendExample(prompt), state.draft.value);
}

// A message asked otherwise: a new version beside it. True if the server has taken it.
export function edit(thread, message, content) {
  return post(thread, content, { parent_id: message.parentId }, null, null);
}

// `rest`: what stays in the box once the message has been taken; null where it has not come from there.
async function post(thread, content, place, retry, rest) {
  if (state.sending.value || state.answering.value || !content.trim()) return false;
  cancelRetry();
  state.sending.value = true;
  try {
    const body = { content, conversation_id: thread?.id ?? null, model: state.model.value, ...place };
    const answer = await askFor(() => call('POST', '/web/messages', body));
    arrived(thread, answer, rest);
    return true;
  } catch (error) {
    if (!handled(error)) fail(error, retry);
    return false;
  } finally {
    state.sending.value = false;
  }
}

// What a conversation begins with, beside its first message.
function beginning() {
  const settings = state.newSettings.value;
  return {
    ...(settings === state.NO_SETTINGS ? {} : { settings }),
    ...(state.temporary.value ? { temporary: true } : {}),
  };
}

function arrived(before, { conversation, question, answer }, rest) {
  const thread = before ?? new state.Thread(conversation, []);
  const message = new state.Message(answer);
  const here = state.thread.value === before;
  batch(() => {
    grow(thread, conversation, [new state.Message(question), message]);
    if (rest === '' || (rest && here)) dropDraft(before?.id);
    if (!here) return;
    state.notice.value = null;
    state.pickedModel.value = null;
    if (!before) {
      history.replaceState(null, '', `/c/${thread.id}`);
      present(thread);
    }
    if (rest !== null) saveDraft(rest);
  });
  follow(thread, message);
}

function grow(thread, conversation, messages) {
  stopWaiting(thread);
  thread.model.value = conversation.model;
  thread.tree.value = [...thread.tree.value, ...messages];
  thread.leafId.value = messages.at(-1).id;
  listed(conversation);
}

// Another answer to the same question, by the model that is picked now.
export async function regenerate(thread, message) {
  if (state.sending.value || state.answering.value) return;
  state.sending.value = true;
  try {
    const body = { model: state.model.value };
    const { conversation, answer } = await askFor(() => call('POST', `/web/answers/${message.id}/regenerate`, body));
    const another = new state.Message(answer);
    batch(() => {
      state.notice.value = null;
      grow(thread, conversation, [another]);
    });
    follow(thread, another);
  } catch (error) {
    if (!handled(error)) fail(error, () => regenerate(thread, message));
  } finally {
    state.sending.value = false;
  }
}

export async function stop() {
  const thread = state.thread.value;
  const message = state.answering.value;
  if (!message) return;
  if (message.lost.value) return void stopLost(thread, message);
  try {
    const { answer } = await callAbout(message, 'stop');
    if (message.streaming) finish(thread, message, answer);
  } catch (error) {
    if (handled(error) || error.status === 404) return;
    if (mayPass(error)) stopLost(thread, message);
    else tell(error);
  }
}

// Shows the branch of another version, and has the server remember it.
export async function showVersion(thread, version) {
  thread.leafId.value = newestLeaf(thread.tree.value, version.id);
  try {
    await call('PATCH', `/web/conversations/${thread.id}`, { leaf_id: thread.leafId.value });
  } catch (error) {
    tell(error);
  }
}
