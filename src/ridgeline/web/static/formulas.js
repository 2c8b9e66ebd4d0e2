// Where formulas stand in Markdown: $...$, $$...$$, \(...\), \[...\]. Prices, shell variables and
// whatever else has a dollar sign stay text. A formula never crosses a blank line, so a paragraph
// that has ended cannot become one later.

const LONGEST = 4000; // characters; what is longer is no formula
const BLANK_LINE = /\n[ \t]*\n/;
const CLOSING = { $$: '$$', '\\[': '\\]', '\\(': '\\)' };

function found(raw, open, source) {
  if (!source.trim() || BLANK_LINE.test(raw)) return null;
  return { raw, source: source.trim(), display: open === '$$' || open === '\\[' };
}

// The formula at the beginning of a text, or null.
export function formulaAt(text) {
  if (text[0] !== '$' && text[0] !== '\\') return null;
  const open = text.slice(0, 2);
  const close = CLOSING[open];
  if (!close) return text[0] === '$' ? betweenDollars(text) : null;
  const end = text.slice(0, LONGEST).indexOf(close, 2);
  return end < 0 ? null : found(text.slice(0, end + 2), open, text.slice(2, end));
}

function betweenDollars(text) {
  const match = /^\$((?:\\[^]|[^\\$])+)\$(?!\w)/.exec(text.slice(0, LONGEST));
  if (!match || /^\s|\s$/.test(match[1]) || isPrice(match[1])) return null;
  return found(match[0], '$', match[1]);
}

// "$5 (or 4 euros) and 10$": a number followed by words.
function isPrice(source) {
  return /^\d/.test(source) && /[\s(][A-Za-z]{2,}/.test(source);
}

// A formula that is a block of its own. `open` while its end may still come; `whole` says that
// nothing more will.
export function formulaBlockAt(text, whole) {
  const begin = /^ {0,3}(\$\$|\\\[)/.exec(text);
  if (!begin) return null;
  const blank = text.search(BLANK_LINE);
  const region = blank < 0 ? text : text.slice(0, blank + 1);
  const end = region.indexOf(CLOSING[begin[1]], begin[0].length);
  if (end < 0) {
    const open = blank < 0 && !whole && region.length < LONGEST;
    return open ? { raw: region, source: '', display: true, open } : null;
  }
  const after = /^[ \t]*(?:\n|$)/.exec(region.slice(end + 2));
  if (!after || end > LONGEST) return null;
  return found(region.slice(0, end + 2) + after[0], begin[1], region.slice(begin[0].length, end));
}

// Where such a block may interrupt the paragraph at the beginning of a text.
export function formulaBlockIndex(text) {
  const blank = text.search(BLANK_LINE);
  const at = (blank < 0 ? text : text.slice(0, blank)).search(/\n {0,3}(?:\$\$|\\\[)/);
  return at < 0 ? undefined : at + 1;
}

// The place of the first dollar after the beginning that could open a formula, or -1.
export function dollarIn(text) {
  const at = text.slice(1).search(/(?<![\w$\\])\$/);
  return at < 0 ? -1 : at + 1;
}

// The same text with formulas blanked out: stars and underscores in them emphasize nothing.
export function withoutFormulas(text) {
  if (!/[$]|\\[([]/.test(text)) return text;
  const last = { $: text.lastIndexOf('$'), '\\(': text.lastIndexOf('\\)'), '\\[': text.lastIndexOf('\\]') };
  let result = '';
  let kept = 0;
  const signs = /\$|\\[^]/g;
  for (let sign; (sign = signs.exec(text)); ) {
    if (!(last[sign[0]] > sign.index) || (sign[0] === '$' && /\w/.test(text[sign.index - 1] ?? ''))) continue;
    const formula = formulaAt(text.slice(sign.index, sign.index + LONGEST + 1));
    if (!formula) continue;
    result += text.slice(kept, sign.index) + 'a'.repeat(formula.raw.length);
    kept = sign.index + formula.raw.length;
    signs.lastIndex = kept;
  }
  return result + text.slice(kept);
}
