// The messages of the open conversation, or an invitation to begin one.
import { html, useLayoutEffect, useRef } from './lib.js';
import { sendExample } from './answers.js';
import { newChat } from './conversations.js';
import { Down, Logo } from './icons.js';
import { Answer } from './message.js';
import { Question } from './question.js';
import { scroll } from './scroll.js';
import { missing, model, thread } from './state.js';
import { text } from './text.js';

export function Messages() {
  const box = useRef();
  const content = useRef();
  const open = thread.value;
  const writing = open?.writing.value?.id ?? null;
  const opened = useRef();
  useLayoutEffect(() => scroll.attach(box.current, content.current), []);
  useLayoutEffect(() => {
    scroll.active = Boolean(open); // the invitation is read from its beginning
    // To the end when a conversation is opened and when an answer begins, not when one ends.
    if (opened.current !== open?.id || writing) scroll.stuck.value = true;
    opened.current = open?.id;
    scroll.follow();
  }, [open?.id, writing]);
  return html`
    <div class="scroller" ref=${box}>
      <div class="column" ref=${content} role="log" aria-live="off" aria-label=${text.transcript} tabindex="-1">
        ${missing.value ? html`<${Missing} />` : open ? html`<${Rows} open=${open} />` : html`<${Empty} />`}
      </div>
    </div>
    ${scroll.stuck.value || !open
      ? null
      : html`<div class="latest"><button type="button" class="plain" onClick=${() => scroll.toEnd()}><${Down} />${text.latest}</button></div>`}
  `;
}

function Rows({ open }) {
  const messages = open.messages.value;
  const versions = open.versions.value;
  const last = messages.length - 1;
  // The newest answer tells from where on the model was shown the conversation.
  const from = messages[last]?.data.value.context_from ?? 0;
  // By their place, not by their id: passing to another version keeps the focus where it is.
  const place = (message) => `${message.parentId}-${message.role}`;
  return messages.map((message, index) => {
    const shared = { thread: open, message, versions: versions[index], outside: index < from };
    return html`
      ${from > 0 && index === from ? html`<${Hidden} key="hidden" count=${from} />` : null}
      ${message.role === 'user'
        ? html`<${Question} key=${place(message)} ...${shared} />`
        : html`<${Answer} key=${place(message)} ...${shared} isLast=${index === last} />`}
    `;
  });
}

function Hidden({ count }) {
  return html`<p class="divider" role="note" title=${text.hiddenWhy}><span>${text.hidden(count)}</span></p>`;
}

function Empty() {
  return html`
    <section class="empty">
      <${Logo} large />
      <h2>${text.emptyTitle}</h2>
      <p>${text.emptyBody(model.value)}</p>
      <ul class="examples">
        ${text.examples.map(
          (example) => html`
            <li>
              <button type="button" onClick=${() => sendExample(example.prompt)} disabled=${!model.value}>
                <strong>${example.title}</strong><span>${example.prompt}</span>
              </button>
            </li>
          `,
        )}
      </ul>
    </section>
  `;
}

function Missing() {
  return html`
    <section class="empty">
      <${Logo} large />
      <h2>${text.notFoundTitle}</h2>
      <p>${text.notFoundBody}</p>
      <p><button type="button" class="primary" onClick=${newChat}>${text.newChat}</button></p>
    </section>
  `;
}
