// The blocks of an answer as elements. Those that can no longer change are built once: a block is
// an object that never changes, and the same object is not looked at again.
import { Component, html, render } from './lib.js';
import { CopyButton } from './clipboard.js';
import { highlighted } from './highlight.js';
import { typeset } from './maths.js';
import { text } from './text.js';

const PIECE_LINES = 64; // of growing code, in one element: only the last one is laid out again

export class Block extends Component {
  shouldComponentUpdate(next) {
    return next.block !== this.props.block;
  }

  render({ block }) {
    if (block.kind === 'code') return html`<${Code} block=${block} />`;
    if (block.kind === 'plain') return html`<p class="raw" dir="auto">${block.text}</p>`;
    return html`<${Html} block=${block} />`;
  }
}

class Html extends Component {
  place = (element) => (this.element = element);

  componentDidMount() {
    this.show();
  }

  componentDidUpdate() {
    this.show();
  }

  componentWillUnmount() {
    this.figures?.forEach((figure) => render(null, figure));
  }

  show() {
    const { block } = this.props;
    const markup = String(block.html);
    if (markup !== this.shown) {
      this.element.innerHTML = block.html;
      this.shown = markup;
      typeset(this.element);
    }
    if (block.final && !this.figures) this.figures = figuresIn(this.element);
  }

  render() {
    return html`<div class="block" dir="auto" ref=${this.place}></div>`;
  }
}

// Code in a list or a quote gets its label, its button and its colours when it is there as a whole.
function figuresIn(element) {
  return [...element.querySelectorAll('pre[data-language]')].map((pre) => {
    const place = document.createElement('div');
    pre.replaceWith(place);
    const block = { kind: 'code', language: pre.dataset.language, text: pre.textContent.replace(/\n$/, '') };
    render(html`<${Code} block=${block} />`, place);
    return place;
  });
}

class Code extends Component {
  place = (element) => (this.code = element ?? this.code); // colours may come after the end

  componentDidMount() {
    this.show();
  }

  componentDidUpdate() {
    this.show();
  }

  show() {
    const { block } = this.props;
    if (block.open) this.grow(block.text);
    else if (this.whole?.text !== block.text || this.whole.language !== block.language) this.settle(block);
  }

  grow(source) {
    if (!this.piece) this.add('');
    let rest = source.slice(this.offset);
    for (let end; (end = nthLineEnd(rest, PIECE_LINES)) > 0; ) {
      this.piece.textContent = rest.slice(0, end);
      this.offset += end;
      rest = rest.slice(end);
      this.add('');
    }
    this.piece.firstChild.data = rest;
  }

  add(source) {
    this.offset ??= 0;
    this.piece = document.createElement('span');
    this.piece.className = 'piece';
    this.piece.append(source);
    this.code.append(this.piece);
  }

  async settle(block) {
    this.whole = block;
    if (this.code.textContent !== block.text || this.piece) this.code.textContent = block.text;
    this.piece = null;
    const coloured = await highlighted(block.language, block.text);
    if (coloured && this.whole === block) this.code.replaceChildren(coloured);
  }

  render({ block }) {
    return html`
      <figure class="code" dir="ltr">
        <figcaption>
          <span>${block.language || text.code}</span>
          <${CopyButton} label=${text.copyCode} value=${() => this.props.block.text} />
        </figcaption>
        <pre tabindex="0"><code ref=${this.place}></code></pre>
      </figure>
    `;
  }
}

function nthLineEnd(source, count) {
  let at = -1;
  for (let line = 0; line < count; line += 1) {
    at = source.indexOf('\n', at + 1);
    if (at < 0) return 0;
  }
  return at + 1;
}
