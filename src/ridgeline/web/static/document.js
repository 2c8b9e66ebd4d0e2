// A Markdown text that grows. Blocks that can no longer change are parsed once; only the last one
// is parsed again when text arrives, at most once per frame, so that a token costs the same at the
// end of a long answer as at its beginning.
import { signal } from './lib.js';
import { blockOf, lex } from './markdown.js';

const FENCE = /^ {0,3}(`{3,}|~{3,})([^\n]*)\n/;
const MARKER = /^ *(?:\d{1,9}[.)]?|[-*+])? *$/;
const MAX_SHARE = 4; // of the time between two updates, at most a fifth is spent parsing

export class MarkdownDocument {
  constructor(source = '') {
    this.blocks = signal([]);
    this.reset(source);
    this.flush(true);
  }

  reset(source) {
    this.tail = clean(source);
    this.settled = [];
    this.scanned = 0;
    this.notBefore = 0;
  }

  append(piece) {
    this.tail += clean(piece);
    this.schedule();
  }

  replace(source, whole) {
    this.reset(source);
    this.flush(whole);
  }

  schedule() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      if (performance.now() < this.notBefore) this.schedule();
      else this.flush(false);
    });
  }

  // Parse what is new and show it; `whole` when nothing more will come.
  flush(whole) {
    const begin = performance.now();
    const open = whole ? null : this.openFence();
    if (open) {
      this.blocks.value = [...this.settled, open];
    } else {
      this.scanned = 0;
      const rest = this.parseTail(whole); // also moves blocks to `settled`
      this.blocks.value = [...this.settled, ...rest];
    }
    const end = performance.now();
    this.notBefore = end + (end - begin) * MAX_SHARE;
  }

  // A code block without its end is the one block that gets long: it is not parsed at all.
  openFence() {
    const fence = FENCE.exec(this.tail);
    if (!fence || (fence[1][0] === '`' && fence[2].includes('`'))) return null;
    const body = fence[0].length - 1;
    const closing = new RegExp(`\\n {0,3}\\${fence[1][0]}{${fence[1].length},}[ \\t]*(?:\\n|$)`, 'g');
    closing.lastIndex = Math.max(body, this.scanned);
    if (closing.test(this.tail)) return null;
    this.scanned = Math.max(body, this.tail.lastIndexOf('\n'));
    // The first marks of the closing fence would flicker.
    const shown = this.tail.slice(body + 1).replace(/(^|\n) {0,3}[`~]+$/, '');
    return { kind: 'code', language: fence[2].trim().split(/\s/)[0], text: shown };
  }

  parseTail(whole) {
    const tokens = lex(this.tail);
    let last = tokens.length - 1;
    while (last > 0 && tokens[last].type === 'space') last -= 1;
    // "3" alone is a paragraph, but may become "3. " and go on with the list before it.
    if (last > 0 && MARKER.test(tokens[last].raw)) last -= 1;
    while (last > 0 && tokens[last].type === 'space') last -= 1;
    let offset = 0;
    const rest = [];
    tokens.forEach((token, index) => {
      const block = blockOf(token, tokens.links);
      // A block can change as long as nothing but white space follows it.
      const settles = !whole && index < last && this.tail.startsWith(token.raw, offset) && rest.length === 0;
      if (settles) offset += token.raw.length;
      if (block) (settles ? this.settled : rest).push(block);
    });
    this.tail = this.tail.slice(offset);
    return rest;
  }
}

function clean(source) {
  return source.replaceAll('\r', '');
}
