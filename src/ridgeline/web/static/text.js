// Every word that the page shows. A translation is another file like this one.

export const title = document.querySelector('meta[name="application-name"]').content;

export const text = {
  skip: 'Skip to the message box',
  conversations: 'Conversations',
  newChat: 'New chat',
  openList: 'Show conversations',
  closeList: 'Hide conversations',
  remove: (name) => `Delete “${name}”`,
  removed: (name) => `Deleted “${name}”`,
  undo: 'Undo',
  dismiss: 'Dismiss',
  noConversations: 'Your conversations will be listed here.',
  older: 'Show older',
  writing: 'An answer is being written',
  model: 'Model',
  transcript: 'Messages',
  you: 'You',
  emptyTitle: 'What would you like to know?',
  emptyBody: (model) => (model ? `${model} answers, on this server’s own hardware.` : 'This server has no model to chat with.'),
  examples: [
    { title: 'Explain', prompt: 'Why is the sky blue? Answer in three sentences.' },
    { title: 'Write', prompt: 'Write a short poem about a walk along a mountain ridge.' },
    { title: 'Code', prompt: 'Write a Python function that tells whether a word is a palindrome.' },
    { title: 'Plan', prompt: 'Give me a checklist for a day hike in the mountains.' },
  ],
  placeholder: 'Write a message',
  messageBox: 'Message',
  send: 'Send',
  stop: 'Stop',
  hint: 'Answers come from a language model and can be wrong.',
  tooLong: (have, limit) => `${have.toLocaleString()} of at most ${limit.toLocaleString()} characters. Shorten the message to send it.`,
  latest: 'Jump to latest',
  copy: 'Copy',
  copied: 'Copied',
  copyCode: 'Copy code',
  copyAnswer: 'Copy answer',
  code: 'text',
  image: (alt) => `Image: ${alt || 'no description'}`,
  thinking: 'Waiting for the first word',
  hidden: (count) =>
    count === 1
      ? '1 earlier message is outside the model’s memory'
      : `${count} earlier messages are outside the model’s memory`,
  tokens: (count) => (count === 1 ? '1 token' : `${count.toLocaleString()} tokens`),
  rate: (rate) => `${rate < 10 ? rate.toFixed(1) : Math.round(rate).toLocaleString()} tokens/s`,
  cached: (cached, prompt) => `${cached.toLocaleString()} of ${prompt.toLocaleString()} prompt tokens from cache`,
  stopped: 'Stopped',
  cutOff: 'The answer reached its length limit.',
  goOn: 'Continue',
  tryAgain: 'Try again',
  tryNow: 'Try now',
  dontWait: 'Don’t wait',
  tryingIn: (seconds) => `Trying again in ${seconds} s.`,
  notFoundTitle: 'This conversation is not here',
  notFoundBody: 'It may have been deleted, or belong to another key.',
  loading: 'Loading',
  reconnecting: 'The connection is lost. The answer goes on at the server; reconnecting…',
  login: {
    title: 'Sign in',
    body: 'This server asks for an API key. It is kept in this tab until you close it.',
    key: 'API key',
    submit: 'Continue',
    wrong: 'That is not one of this server’s keys. Check it for missing characters.',
  },
  unreachable: {
    title: 'The server does not answer',
    body: 'It may be stopped or starting. This page tries again by itself.',
  },
  status: {
    started: 'Answering',
    complete: 'Answer complete',
    stopped: 'Answer stopped; its text is kept',
    interrupted: 'Answer interrupted',
    failed: 'No answer',
  },
};

// What to say about an error, and what to do about it, by its code.
const errors = {
  at_capacity: {
    title: 'We are at capacity',
    body: 'Every GPU is busy with other answers. Your message is kept.',
  },
  no_replica: {
    title: 'No model is ready',
    body: 'The server runs, but nothing behind it can answer just now. Your message is kept.',
  },
  shutting_down: {
    title: 'The server is restarting',
    body: 'Your message is kept. Try again in a moment.',
  },
  rate_limited: { title: 'One thing at a time' },
  context_length_exceeded: { title: 'The message is too long for this model' },
  request_too_large: { title: 'The message is too long' },
  model_not_found: {
    title: 'This model is no longer served',
    body: 'Pick another model and send again.',
  },
  internal_error: { title: 'Something went wrong at the server' },
  invalid_request: { title: 'The server could not take this' },
  forbidden: { title: 'The server refuses requests from this address' },
  unreachable: {
    title: 'The server does not answer',
    body: 'It may be stopped, or the network is down. Your text is kept; send it again when the server is back.',
  },
  unheard: {
    title: 'The answer was ended',
    body: 'Nobody was listening for a minute, so the GPU was given to others.',
  },
  server_stopped: {
    title: 'The answer was interrupted',
    body: 'The server stopped while it was being written. What was there is kept.',
  },
};

export function explain(error) {
  const known = errors[error.code] ?? errors.internal_error;
  return { title: known.title, body: known.body ?? error.message };
}
