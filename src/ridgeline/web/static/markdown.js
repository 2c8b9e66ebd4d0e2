// From Markdown to HTML that is safe to show. What a model writes is untrusted: raw HTML is shown
// as text, images become links, and DOMPurify takes out whatever else is not on a short list.
import { dollarIn, formulaAt, formulaBlockAt, formulaBlockIndex, withoutFormulas } from './formulas.js';
import DOMPurify from './vendor/purify.js';
import { Marked, Renderer, Tokenizer } from './vendor/marked.js';
import { text } from './text.js';

const TAGS = [
  'p', 'br', 'hr', 'strong', 'em', 'del', 'a', 'code', 'pre', 'blockquote', 'ul', 'ol', 'li', 'span',
  'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'table', 'thead', 'tbody', 'tr', 'th', 'td',
];
const SANITIZE = {
  ALLOWED_TAGS: TAGS,
  ALLOWED_ATTR: ['href', 'title', 'start', 'align', 'data-math', 'data-language'],
  ADD_URI_SAFE_ATTR: ['start', 'align', 'data-math', 'data-language'],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_TRUSTED_TYPE: true,
};
const DEEPEST = 24; // levels of quotes and lists; deeper ones are shown as the text they are
// What could be the beginning of an address for mail. The pattern that looks for one takes time
// that grows with the square of its length.
const LONG_RUN = /^[\w.!#$%&'*+/=?^`{|}~-]{500,}/;

DOMPurify.addHook('afterSanitizeAttributes', (node) => {
  if (node.nodeName === 'A') {
    node.setAttribute('target', '_blank');
    node.setAttribute('rel', 'noopener noreferrer nofollow');
  }
});

function escape(value) {
  return value.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
}

let depth = 0;
const limited = (name) =>
  function tokenize(source) {
    if (depth >= DEEPEST) return undefined;
    depth += 1;
    try {
      return Tokenizer.prototype[name].call(this, source);
    } finally {
      depth -= 1;
    }
  };

function inlineText(source) {
  const long = LONG_RUN.exec(source);
  if (long) return { type: 'text', raw: long[0], text: long[0], escaped: false };
  const token = Tokenizer.prototype.inlineText.call(this, source);
  const dollar = token ? dollarIn(token.raw) : -1;
  return dollar < 0 ? token : Tokenizer.prototype.inlineText.call(this, source.slice(0, dollar));
}

function math({ raw, display }) {
  return `<span data-math="${display ? 'display' : 'inline'}">${escape(raw.trim())}</span>`;
}

let insideLink = false;
let whole = true; // whether what is being read is all there will be
const marked = new Marked({
  gfm: true,
  tokenizer: { blockquote: limited('blockquote'), list: limited('list'), inlineText },
  hooks: { emStrongMask: withoutFormulas },
  renderer: {
    html: ({ text: raw }) => (/^<br\s*\/?>$/i.test(raw.trim()) ? '<br>' : escape(raw)),
    link(token) {
      insideLink = true;
      try {
        return Renderer.prototype.link.call(this, token);
      } finally {
        insideLink = false;
      }
    },
    image: ({ href, text: alt }) =>
      insideLink ? escape(text.image(alt)) : `<a href="${escape(href)}">${escape(text.image(alt))}</a>`,
    checkbox: ({ checked }) => (checked ? '☑ ' : '☐ '),
    code: ({ text: source, lang }) =>
      `<pre data-language="${escape(languageOf(lang))}"><code>${escape(source)}\n</code></pre>`,
  },
  extensions: [
    {
      name: 'formula',
      level: 'inline',
      tokenizer(source) {
        const formula = formulaAt(source);
        return formula ? { type: 'formula', ...formula } : undefined;
      },
      renderer: math,
    },
    {
      name: 'formulaBlock',
      level: 'block',
      start: formulaBlockIndex,
      tokenizer(source) {
        const formula = formulaBlockAt(source, whole);
        return formula ? { type: 'formulaBlock', ...formula } : undefined;
      },
      renderer: (token) => (token.open ? `<p>${escape(token.raw)}</p>` : `<p>${math(token)}</p>`),
    },
  ],
});

function languageOf(info) {
  return (info ?? '').split(/\s/)[0];
}

// The blocks of a text; all of it is one block of plain text if it cannot be read.
export function lex(source, isWhole = true) {
  whole = isWhole;
  try {
    return marked.lexer(source);
  } catch {
    return [{ type: 'plain', raw: source }];
  }
}

// One block of a document, ready to show; null for those that show nothing. A block that is
// `final` will not be replaced by a longer one.
export function blockOf(token, links, final) {
  if (token.type === 'space' || token.type === 'def') return null;
  if (token.type === 'code') return { kind: 'code', language: languageOf(token.lang), text: token.text, open: !final };
  const tokens = [token];
  tokens.links = links;
  try {
    return { kind: 'html', html: DOMPurify.sanitize(marked.parser(tokens), SANITIZE), final };
  } catch {
    return { kind: 'plain', text: token.raw };
  }
}
