// Every word of the page, but for those of the events and the advice, which the server says.
import { seconds } from '../dashboard/format.js';

export const text = {
  name: 'What became of a request',
  back: 'Back to the chat',
  skip: 'Skip to the answer',
  form: {
    label: 'Id of a request',
    hint: 'The header x-request-id of an answer, or its id.',
    submit: 'Explain',
  },
  asking: 'Asking the server',
  unreachable: 'The server does not answer. Try again.',
  received: (at) => `Received ${new Date(at).toLocaleString('en-GB')}`,
  answer: (index) => `Answer ${index + 1}`,
  states: { waiting: 'Waiting', running: 'Being answered', finished: 'Finished', refused: 'Refused' },
  where: (total) => `Where ${seconds(total)} went`,
  soFar: (total) => `Where ${seconds(total)} went so far`,
  phases: {
    arrival: { name: 'Arrival', meaning: 'The server took the request in and cut its text into tokens.' },
    queue: { name: 'Queue', meaning: 'It waited for its turn, a place in the batch, or room for its KV.' },
    load: { name: 'Loading', meaning: 'Its KV was read from the host’s memory or from disk.' },
    prefill: { name: 'Reading the prompt', meaning: 'What was not cached of the prompt was computed.' },
    decode: { name: 'Writing', meaning: 'The answer came, token by token.' },
    preempted: { name: 'Put aside', meaning: 'It had to make room for others, and waited to come back.' },
    recompute: { name: 'Reading again', meaning: 'What it had lost while it was put aside was computed again.' },
  },
  advice: 'With more room',
  events: 'What happened',
  omitted: (count) => `${count.toLocaleString('en')} events were left out about here.`,
};
