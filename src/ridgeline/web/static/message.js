// One answer: its blocks, how it ended, and what can be done with it.
import { Component, html } from './lib.js';
import { regenerate } from './answers.js';
import { Block } from './blocks.js';
import { ErrorCard } from './card.js';
import { CopyButton } from './clipboard.js';
import { giveUp, goOn } from './following.js';
import { Again } from './icons.js';
import { answering, sending } from './state.js';
import { text } from './text.js';
import { Versions } from './versions.js';

const PAGE = 32; // blocks that are passed over at once when none of them is new

export function Answer({ thread, message, versions, isLast, outside }) {
  const data = message.data.value;
  const { streaming } = message;
  return html`
    <article
      id=${`message-${message.id}`}
      class=${`answer${isLast ? ' last' : ''}${outside ? ' outside' : ''}`}
      aria-label=${data.model}
      aria-busy=${streaming}
    >
      <${Body} key=${message.id} message=${message} streaming=${streaming} />
      ${message.lost.value ? html`<p class="aside">${text.reconnecting}</p>` : null}
      ${streaming ? null : html`<${Outcome} ...${{ thread, message, data, isLast }} />`}
      <${Footer} ...${{ thread, message, data, versions, streaming }} />
    </article>
  `;
}

function Body({ message, streaming }) {
  const { thoughts, said, part } = message.reply;
  const thinking = streaming && part.value === 'thinking';
  return html`
    ${thinking || thoughts.blocks.value.length ? html`<${Thoughts} ...${{ thoughts, thinking }} />` : null}
    ${thinking ? null : html`<${Said} ...${{ said, streaming }} />`}
  `;
}

// Closed, while they grow too: what was asked for is what comes after them.
function Thoughts({ thoughts, thinking }) {
  return html`
    <details class="thoughts">
      <summary>${thinking ? html`${text.thinking}<span class="dot"></span>` : text.thoughts}</summary>
      <${Blocks} blocks=${thoughts.blocks.value} streaming=${false} />
    </details>
  `;
}

function Said({ said, streaming }) {
  const blocks = said.blocks.value;
  if (streaming && blocks.length === 0) {
    return html`<p class="waiting"><span class="offscreen">${text.waiting}</span><i></i><i></i><i></i></p>`;
  }
  return html`<${Blocks} ...${{ blocks, streaming }} />`;
}

function Blocks({ blocks, streaming }) {
  const pages = [];
  for (let at = 0; at < blocks.length; at += PAGE) pages.push(blocks.slice(at, at + PAGE));
  return html`
    <div class=${streaming ? 'markdown streaming' : 'markdown'}>
      ${pages.map((page, index) => html`<${Page} key=${index} blocks=${page} />`)}
    </div>
  `;
}

class Page extends Component {
  shouldComponentUpdate({ blocks }) {
    const before = this.props.blocks;
    return blocks.length !== before.length || blocks.some((block, index) => block !== before[index]);
  }

  render({ blocks }) {
    return blocks.map((block, index) => html`<${Block} key=${index} block=${block} />`);
  }
}

// How an answer that is not whole has ended, and the way on.
function Outcome({ thread, message, data, isLast }) {
  const again = isLast && !answering.value ? () => goOn(thread, message) : null;
  if (data.status === 'stopped') return html`<${Aside} says=${text.stopped} run=${again} />`;
  if (data.error) {
    return html`<${ErrorCard}
      error=${data.error}
      retryAt=${isLast ? message.retryAt.value : null}
      retry=${again}
      label=${data.content ? text.goOn : text.tryAgain}
      giveUp=${() => giveUp(thread, message)}
    />`;
  }
  if (data.finish === 'length') return html`<${Aside} says=${text.cutOff} run=${again} />`;
  return null;
}

function Aside({ says, run }) {
  return html`
    <p class="aside">
      ${says}
      ${run ? html`<button type="button" class="link" onClick=${run}>${text.goOn}</button>` : null}
    </p>
  `;
}

function Footer({ thread, message, data, versions, streaming }) {
  const whole = !streaming && data.content;
  if (!whole && versions.length < 2) return null;
  return html`
    <footer class="row">
      ${whole
        ? html`
            <span class="tools">
              ${message.said ? html`<${CopyButton} label=${text.copyAnswer} value=${() => message.said} quiet />` : null}
              <button
                type="button"
                class="ghost small"
                aria-label=${text.regenerate}
                title=${text.regenerate}
                disabled=${answering.value !== null || sending.value}
                onClick=${() => regenerate(thread, message)}
              >
                <${Again} />
              </button>
            </span>
          `
        : null}
      <${Versions} thread=${thread} message=${message} versions=${versions} />
      ${whole ? html`<${Facts} id=${message.id} usage=${data.usage} />` : null}
    </footer>
  `;
}

function Facts({ id, usage }) {
  if (!usage) return null;
  const facts = [];
  if (usage.tokens_per_second) facts.push(text.rate(usage.tokens_per_second));
  facts.push(text.tokens(usage.completion_tokens));
  const cached = usage.prompt_tokens === null ? null : text.cached(usage.cached_tokens, usage.prompt_tokens);
  return html`
    <span class="facts">
      ${facts.map((fact) => html`<span>${fact}</span>`)}
      ${cached ? html`<span class="cached">${cached}</span>` : null}
      <span><a class="why" href=${`/explain?id=${id}`} title=${text.whyHint}>${text.why}</a></span>
    </span>
  `;
}
