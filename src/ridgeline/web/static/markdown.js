// From Markdown to HTML that is safe to show. What a model writes is untrusted: raw HTML is shown
// as text, images become links, and DOMPurify takes out whatever else is not on a short list.
import DOMPurify from './vendor/purify.js';
import { Marked } from './vendor/marked.js';
import { text } from './text.js';

const TAGS = [
  'p', 'br', 'hr', 'strong', 'em', 'del', 'a', 'code', 'pre', 'blockquote', 'ul', 'ol', 'li',
  'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'table', 'thead', 'tbody', 'tr', 'th', 'td',
];
const SANITIZE = {
  ALLOWED_TAGS: TAGS,
  ALLOWED_ATTR: ['href', 'title', 'start', 'align'],
  ADD_URI_SAFE_ATTR: ['start', 'align'],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  ALLOW_DATA_ATTR: false,
  ALLOW_ARIA_ATTR: false,
  RETURN_TRUSTED_TYPE: true,
};

DOMPurify.addHook('afterSanitizeAttributes', (node) => {
  if (node.nodeName === 'A') {
    node.setAttribute('target', '_blank');
    node.setAttribute('rel', 'noopener noreferrer nofollow');
  }
});

function escape(value) {
  return value.replace(/[&<>"']/g, (sign) => `&#${sign.charCodeAt(0)};`);
}

const marked = new Marked({
  gfm: true,
  renderer: {
    html: ({ text: raw }) => (/^<br\s*\/?>$/i.test(raw.trim()) ? '<br>' : escape(raw)),
    image: ({ href, text: alt }) => `<a href="${escape(href)}">${escape(text.image(alt))}</a>`,
    checkbox: ({ checked }) => (checked ? '☑ ' : '☐ '),
  },
});

export function lex(source) {
  return marked.lexer(source);
}

// One block of a document, ready to show; null for those that show nothing.
export function blockOf(token, links) {
  if (token.type === 'space' || token.type === 'def') return null;
  if (token.type === 'code') {
    return { kind: 'code', language: (token.lang ?? '').split(/\s/)[0], text: token.text };
  }
  const tokens = [token];
  tokens.links = links;
  return { kind: 'html', html: DOMPurify.sanitize(marked.parser(tokens), SANITIZE) };
}
