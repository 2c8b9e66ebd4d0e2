// What the page knows, as signals; nothing here talks to the server.
import { computed, signal } from './lib.js';
import { pathTo, versionsAlong } from './branches.js';
import { Reply, spoken } from './thoughts.js';

export const phase = signal('loading'); // loading | login | unreachable | ready
export const loginFailed = signal(false);
export const session = signal(null);
export const pinned = signal([]);
export const conversations = signal([]); // those that are not pinned, newest first
export const moreConversations = signal(false);
export const thread = signal(null); // the open conversation, null for a new one
export const missing = signal(false); // the address names a conversation that is not there
export const notice = signal(null); // an error about what is in the message box
export const toast = signal(null);
export const status = signal(''); // the one polite line for screen readers
export const drawer = signal(false); // where the window is narrow, the list is one
export const listHidden = signal(false); // where it is wide
export const sending = signal(false);
export const draft = signal('');
export const pickedModel = signal(null);
export const temporary = signal(false); // whether the chat to begin will leave no trace
export const sought = signal(null); // {id, match} of the message that a search leads to

// null stands for the default of the site.
export const NO_SETTINGS = Object.freeze({ system_prompt: '', temperature: null, top_p: null, max_tokens: null });
export const newSettings = signal(NO_SETTINGS); // of the chat to begin, sent with its first message

export class Message {
  constructor(data) {
    this.id = data.id;
    this.role = data.role;
    this.parentId = data.parent_id;
    this.createdMs = data.created_ms;
    this.data = signal(data);
    this.content = data.content;
    this.lost = signal(false); // the connection, while the answer goes on
    this.brokenOff = false; // whether the end that is shown is this page's own
    this.retryAt = signal(null);
    this.reply = data.role === 'assistant' ? new Reply(data.content, data.status !== 'streaming') : null;
  }

  get streaming() {
    return this.data.value.status === 'streaming';
  }

  // What was said, without the thoughts before it.
  get said() {
    return this.reply ? spoken(this.content) : this.content;
  }

  append(piece) {
    this.content += piece;
    this.reply.append(piece);
  }

  // The server's view of the message replaces ours.
  update(data) {
    const same = data.content === this.content;
    const whole = data.status !== 'streaming';
    this.content = data.content;
    this.data.value = data;
    if (same && whole) this.reply.finish(data.content);
    else this.reply.replace(data.content, whole);
  }
}

export class Thread {
  constructor(conversation, messages) {
    this.id = conversation.id;
    this.conversation = signal(conversation);
    this.model = signal(conversation.model);
    this.tree = signal(messages.map((data) => new Message(data)));
    this.leafId = signal(conversation.leaf_id ?? null);
    this.messages = computed(() => pathTo(this.tree.value, this.leafId.value)); // the branch that is shown
    this.versions = computed(() => versionsAlong(this.tree.value, this.messages.value));
    this.writing = computed(() => this.tree.value.find((message) => message.streaming) ?? null);
  }

  // The server's view of the conversation replaces ours; messages that did not change stay the same.
  take(conversation, messages) {
    const known = new Map(this.tree.value.map((message) => [message.id, message]));
    this.model.value = conversation.model;
    this.tree.value = messages.map((data) => {
      const message = known.get(data.id);
      if (!message) return new Message(data);
      if (message.data.value.status !== data.status || message.content !== data.content) message.update(data);
      return message;
    });
    this.leafId.value = conversation.leaf_id ?? null;
  }

  get title() {
    return this.conversation.value.title;
  }

  get last() {
    return this.messages.value.at(-1);
  }
}

// Threads with an answer under way stay here while another one is shown.
export const live = signal(new Map());

export const answering = computed(() => thread.value?.writing.value ?? null);

export const models = computed(() => session.value?.models ?? []);

export const model = computed(() => {
  const names = models.value.map((entry) => entry.name);
  const wanted = [pickedModel.value, thread.value?.model.value];
  return wanted.find((name) => names.includes(name)) ?? names[0] ?? null;
});
