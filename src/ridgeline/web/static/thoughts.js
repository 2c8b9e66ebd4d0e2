// Models that think aloud begin with <think>...</think>. What stands in it is shown apart from what they
// say then, and is no part of what is copied.
import { MarkdownDocument } from './document.js';
import { signal } from './lib.js';

const OPEN = '<think>';
const CLOSE = '</think>';
const THOUGHTS = /^\s*<think>.*?(?:<\/think>\s*|$)/s;

export function spoken(content) {
  return content.replace(THOUGHTS, '');
}

// How much of the end of a text may become a tag.
function begun(source, tag) {
  let length = Math.min(source.length, tag.length - 1);
  while (!source.endsWith(tag.slice(0, length))) length -= 1;
  return length;
}

// A text that grows, as two documents; each piece is looked at once.
export class Reply {
  constructor(source, whole) {
    this.thoughts = new MarkdownDocument();
    this.said = new MarkdownDocument();
    this.part = signal('beginning'); // beginning | thinking | saying
    this.replace(source, whole);
  }

  replace(source, whole) {
    this.part.value = 'beginning';
    this.held = ''; // what may become a tag
    const [thought, said] = this.sort(source, whole);
    this.thoughts.replace(thought, whole || this.part.value === 'saying');
    this.said.replace(said, whole);
  }

  append(piece, whole = false) {
    const before = this.part.value;
    const [thought, said] = this.sort(piece, whole);
    if (thought) this.thoughts.append(thought);
    if (said) this.said.append(said);
    if (before !== 'saying' && this.part.value === 'saying') this.thoughts.flush(true);
  }

  finish(source) {
    this.append('', true);
    this.thoughts.flush(true);
    this.said.finish(spoken(source));
  }

  // What a piece adds to the thoughts, and to what is said.
  sort(piece, whole) {
    let rest = this.held + piece;
    let thought = '';
    this.held = '';
    if (this.part.value === 'beginning') {
      const start = rest.trimStart();
      if (!whole && OPEN.startsWith(start)) {
        this.held = rest;
        return ['', ''];
      }
      this.part.value = start.startsWith(OPEN) ? 'thinking' : 'saying';
      if (this.part.value === 'thinking') rest = start.slice(OPEN.length);
    }
    if (this.part.value === 'thinking') {
      const end = rest.indexOf(CLOSE);
      const length = end < 0 ? rest.length - (whole ? 0 : begun(rest, CLOSE)) : end;
      thought = rest.slice(0, length);
      rest = rest.slice(length);
      if (end < 0) this.held = rest;
      else this.part.value = 'saying';
      rest = end < 0 ? '' : rest.slice(CLOSE.length);
    }
    return [thought, rest];
  }
}
