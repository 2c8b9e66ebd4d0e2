// Formulas, by KaTeX, which is loaded when the first one appears. It builds elements and sets their
// styles one by one, which a strict content security policy allows; HTML with `style` it would not.

const LARGEST_EM = 20;
const MOST_EXPANSIONS = 500;
const DEEPEST = 40;
const MOST_IN_A_BLOCK = 500;
const MOST_KEPT = 300;
// A macro of one's own can make a page of symbols of one line.
const DEFINES = /\\(?:[gex]?def|(?:re)?newcommand|providecommand|(?:future)?let|global|long)(?![A-Za-z])/;

const trees = new Map(); // the last formulas that were read: one that is still growing around is read once
let katex = null;
let loading = null;

function load() {
  loading ??= Promise.all([import('./vendor/katex/katex.js'), stylesheet('./vendor/katex/katex.css')]).then(
    () => (katex = globalThis.katex),
  );
  return loading;
}

function stylesheet(path) {
  const link = document.createElement('link');
  link.rel = 'stylesheet';
  link.href = new URL(path, import.meta.url);
  return new Promise((done) => {
    link.onload = link.onerror = done;
    document.head.append(link);
  });
}

// Typeset the formulas in an element. Their source stays where they cannot be.
export function typeset(element) {
  const places = [...element.querySelectorAll('[data-math]')].slice(0, MOST_IN_A_BLOCK);
  if (places.length === 0) return;
  if (katex) places.forEach(show);
  else load().then(() => places.filter((place) => place.isConnected).forEach(show), () => (loading = null));
}

function show(place) {
  const raw = place.textContent;
  const open = /^(?:\$\$|\\\[|\\\(|\$)/.exec(raw)?.[0] ?? '';
  const source = raw.slice(open.length, raw.length - open.length);
  try {
    place.replaceChildren(elementOf(source, place.dataset.math === 'display'));
    place.classList.add('formula');
  } catch (error) {
    place.classList.add('unreadable');
    place.title = error.message.slice(0, 300);
  }
}

function elementOf(source, display) {
  const key = `${display} ${source}`;
  let tree = trees.get(key);
  if (!tree) {
    check(source);
    tree = katex.__renderToDomTree(source, {
      displayMode: display,
      throwOnError: true,
      strict: 'ignore',
      trust: false,
      maxSize: LARGEST_EM,
      maxExpand: MOST_EXPANSIONS,
    });
    setStylesAside(tree);
    if (trees.size >= MOST_KEPT) trees.delete(trees.keys().next().value);
    trees.set(key, tree);
  }
  const element = tree.toNode();
  for (const styled of element.querySelectorAll('[data-css]')) {
    styled.style.cssText += styled.dataset.css;
    delete styled.dataset.css;
  }
  return element;
}

function check(source) {
  if (DEFINES.test(source)) throw new Error('definitions of macros are not carried out');
  let depth = 0;
  for (const [sign] of source.matchAll(/\\[{}]|\\(?:left|right|begin|end)(?![A-Za-z])|[{}]/g)) {
    if (sign === '{' || sign === '\\left' || sign === '\\begin') depth += 1;
    else if (sign[0] !== '\\' || sign.length > 2) depth -= 1;
    if (depth > DEEPEST) throw new Error('the formula is nested too deeply');
  }
}

// A few elements get their style as an attribute, which the policy forbids: it is set later.
function setStylesAside(node) {
  if (node.attributes?.style) {
    node.attributes['data-css'] = node.attributes.style;
    delete node.attributes.style;
  }
  node.children?.forEach(setStylesAside);
}
