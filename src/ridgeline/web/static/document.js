// A Markdown text that grows. Blocks that can no longer change are parsed once; only the last one
// is parsed again when text arrives, twenty times a second at most, so that a token costs the same at the
// end of a long answer as at its beginning.
import { signal } from './lib.js';
import { blockOf, lex } from './markdown.js';

const FENCE = /^ {0,3}(`{3,}|~{3,})([^\n]*)\n/;
const DEFINITION = /^[ >]*\[[^\]\n]+\]:/m;
const MARKER = /^ *(?:\d{1,9}[.)]?|[-*+])? *$/;
const PERIOD_MS = 50; // at least, from one update to the next
const PAUSE = 9; // times what an update took, before the next one: at most a tenth of the time

export class MarkdownDocument {
  constructor(source = '', whole = true) {
    this.blocks = signal([]);
    this.reset(source);
    this.flush(whole);
  }

  reset(source) {
    this.tail = clean(source);
    this.settled = [];
    this.scanned = 0;
    this.notBefore = 0;
  }

  append(piece) {
    this.ended = false;
    this.tail += clean(piece);
    this.schedule();
  }

  replace(source, whole) {
    this.reset(source);
    this.flush(whole);
  }

  // Nothing more will come. What was shown is what the whole gives, but for links that are defined
  // below the place where they are used.
  finish(source) {
    if (DEFINITION.test(source)) this.reset(source);
    this.flush(true);
  }

  schedule() {
    this.due ??= setTimeout(
      () => requestAnimationFrame(() => this.update()),
      Math.max(0, this.notBefore - performance.now()),
    );
  }

  update() {
    this.due = undefined;
    if (this.ended) return;
    const begin = performance.now();
    this.flush(false);
    this.notBefore = begin + PERIOD_MS;
    // The task after this frame: style, layout and painting have taken their time too.
    setTimeout(() => {
      const end = performance.now();
      this.notBefore = Math.max(this.notBefore, end + (end - begin) * PAUSE);
    });
  }

  // Parse what is new and show it; `whole` when nothing more will come.
  flush(whole) {
    this.ended = whole;
    const open = whole ? null : this.openFence();
    if (open) {
      this.blocks.value = [...this.settled, open];
    } else {
      this.scanned = 0;
      const rest = this.parseTail(whole); // also moves blocks to `settled`
      this.blocks.value = [...this.settled, ...rest];
    }
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
    return { kind: 'code', language: fence[2].trim().split(/\s/)[0], text: shown, open: true };
  }

  parseTail(whole) {
    const tokens = lex(this.tail, whole);
    let last = tokens.length - 1;
    while (last > 0 && tokens[last].type === 'space') last -= 1;
    // "3" alone is a paragraph, but may become "3. " and go on with the list before it.
    if (last > 0 && MARKER.test(tokens[last].raw)) last -= 1;
    // A formula below a paragraph may turn out to be its last line.
    if (last > 0 && tokens[last].type === 'formulaBlock' && tokens[last - 1].type === 'paragraph') last -= 1;
    while (last > 0 && tokens[last].type === 'space') last -= 1;
    let offset = 0;
    const rest = [];
    tokens.forEach((token, index) => {
      // A block can change as long as nothing but white space follows it.
      const settles = !whole && index < last && this.tail.startsWith(token.raw, offset) && rest.length === 0;
      const block = blockOf(token, tokens.links, settles || whole);
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
