// Colours for code, by highlight.js, which is loaded with the language when the first finished
// block of that language is there.
import DOMPurify from './vendor/purify.js';

const LONGEST = 60_000; // characters; longer code stays as it is
const LANGUAGES = `bash c clojure cmake cpp csharp css dart diff dockerfile elixir erlang fortran fsharp go gradle
  graphql groovy haskell http ini java javascript json julia kotlin latex less lisp lua makefile markdown matlab
  nginx nix objectivec ocaml perl php powershell protobuf python r ruby rust scala scheme scss shell sql swift
  typescript vbnet verilog vhdl vim wasm x86asm xml yaml`.split(/\s+/);
const ALIASES = {
  asm: 'x86asm', 'c#': 'csharp', 'c++': 'cpp', cc: 'cpp', clj: 'clojure', console: 'shell', cs: 'csharp', cxx: 'cpp',
  docker: 'dockerfile', erl: 'erlang', ex: 'elixir', f90: 'fortran', 'f#': 'fsharp', golang: 'go', gql: 'graphql',
  h: 'c', hpp: 'cpp', hs: 'haskell', html: 'xml', jl: 'julia', js: 'javascript', json5: 'json', jsonc: 'json',
  jsx: 'javascript', kt: 'kotlin', make: 'makefile', md: 'markdown', mjs: 'javascript', ml: 'ocaml', mm: 'objectivec',
  'objective-c': 'objectivec', patch: 'diff', pl: 'perl', proto: 'protobuf', ps1: 'powershell', pwsh: 'powershell',
  py: 'python', python3: 'python', rb: 'ruby', rs: 'rust', sh: 'bash', svg: 'xml', tex: 'latex', toml: 'ini',
  ts: 'typescript', tsx: 'typescript', vb: 'vbnet', vue: 'xml', wat: 'wasm', yml: 'yaml', zsh: 'bash',
};
const EMBEDDED = {
  dockerfile: ['bash'],
  http: ['json', 'xml'],
  markdown: ['xml'],
  php: ['xml'],
  shell: ['bash'],
  xml: ['css', 'javascript'],
};
const SANITIZE = { ALLOWED_TAGS: ['span'], ALLOWED_ATTR: ['class'], RETURN_DOM_FRAGMENT: true };

const loading = new Map();
let core = null;

async function language(name) {
  core ??= import('./vendor/highlight/core.js');
  const [{ default: hljs }, { default: grammar }] = await Promise.all([core, import(`./vendor/highlight/${name}.js`)]);
  hljs.registerLanguage(name, grammar);
  return hljs;
}

// Loads a language once, and those that may stand in it.
function load(name) {
  for (const needed of [name, ...(EMBEDDED[name] ?? [])]) {
    if (!loading.has(needed)) loading.set(needed, language(needed));
  }
  return Promise.all([name, ...(EMBEDDED[name] ?? [])].map((needed) => loading.get(needed)));
}

// The code as a fragment of coloured spans; null where there is nothing to colour.
export async function highlighted(label, source) {
  const name = ALIASES[label.toLowerCase()] ?? label.toLowerCase();
  if (!LANGUAGES.includes(name) || source.length > LONGEST) return null;
  try {
    const [hljs] = await load(name);
    const { value } = hljs.highlight(source, { language: name, ignoreIllegals: true });
    return DOMPurify.sanitize(value, SANITIZE);
  } catch {
    loading.delete(name); // the server may be away; plain code is good enough
    core = null;
    return null;
  }
}
