// The settings of one conversation: of the open one, or of the one to be begun.
import { complain as tellOutside, saveSettings } from './conversations.js';
import { closeDialog, Dialog } from './dialog.js';
import { handled } from './errors.js';
import { html, useRef, useState } from './lib.js';
import { newSettings, NO_SETTINGS, session, status, thread } from './state.js';
import { explain, text } from './text.js';
import { touch } from './typing.js';

const words = text.settings;

export function currentSettings() {
  return { ...NO_SETTINGS, ...(thread.value ? thread.value.conversation.value.settings : newSettings.value) };
}

export function settingsChanged() {
  const settings = currentSettings();
  return Object.keys(NO_SETTINGS).some((name) => settings[name] !== NO_SETTINGS[name]);
}

// The site's default is also the most it allows.
const longest = () => session.value.defaults?.max_tokens;

const NUMBERS = {
  temperature: {
    label: words.temperature,
    hint: () => words.temperatureHint,
    wrong: () => words.temperatureWrong,
    holds: (value) => value >= 0 && value <= 2,
    mode: 'decimal',
  },
  top_p: {
    label: words.topP,
    hint: () => words.topPHint,
    wrong: () => words.topPWrong,
    holds: (value) => value > 0 && value <= 1,
    mode: 'decimal',
  },
  max_tokens: {
    label: words.maxTokens,
    hint: () => words.maxTokensHint(longest()),
    wrong: () => words.maxTokensWrong(longest()),
    holds: (value) => Number.isInteger(value) && value >= 1 && value <= (longest() ?? Infinity),
    mode: 'numeric',
  },
};

// Both 0.7 and 0,7 are what people write; NaN is what was not understood.
function numberOf(typed) {
  const plain = typed.trim().replace(',', '.');
  return plain === '' ? null : /^\d*\.?\d+$/.test(plain) ? Number(plain) : NaN;
}

const fieldsOf = (settings) =>
  Object.fromEntries(Object.entries(settings).map(([name, value]) => [name, value === null ? '' : String(value)]));

function read(fields) {
  const settings = { system_prompt: fields.system_prompt.trim() };
  const problems = {};
  const limit = session.value.limits?.system_prompt_characters ?? Infinity;
  if (settings.system_prompt.length > limit) {
    problems.system_prompt = words.systemPromptWrong(settings.system_prompt.length, limit);
  }
  for (const [name, { holds, wrong }] of Object.entries(NUMBERS)) {
    settings[name] = numberOf(fields[name]);
    if (settings[name] !== null && !holds(settings[name])) problems[name] = wrong();
  }
  return { settings, problems };
}

export function SettingsDialog() {
  const [fields, setFields] = useState(() => fieldsOf(currentSettings()));
  const [problems, setProblems] = useState({});
  const [busy, setBusy] = useState(false);
  const form = useRef();

  const set = (name) => (event) => {
    setFields({ ...fields, [name]: event.target.value });
    setProblems({ ...problems, [name]: undefined, form: undefined });
  };
  function complain(found) {
    setProblems(found);
    const first = Object.keys(fields).find((name) => found[name]);
    requestAnimationFrame(() => form.current?.elements[first]?.focus());
  }
  async function onSubmit(event) {
    event.preventDefault();
    const { settings, problems: found } = read(fields);
    if (Object.keys(found).length) return complain(found);
    setBusy(true);
    try {
      await saveSettings(settings);
      status.value = words.saved;
      if (form.current) closeDialog(); // another dialog may have taken its place meanwhile
    } catch (error) {
      if (handled(error)) return undefined;
      if (!form.current) return tellOutside(error);
      const name = error.param?.replace(/^settings\./, '');
      const { title, body } = explain(error);
      const message = error.code === 'unreachable' ? `${title}. ${text.list.tryLater}` : error.message || body;
      complain({ [name in fields ? name : 'form']: message });
      setBusy(false);
    }
    return undefined;
  }
  function reset() {
    setFields(fieldsOf(NO_SETTINGS));
    setProblems({});
    form.current.elements.system_prompt.focus();
  }
  return html`
    <${Dialog} title=${words.name} kind="settings">
      <form ref=${form} onSubmit=${onSubmit} noValidate>
        <${Prompt} value=${fields.system_prompt} problem=${problems.system_prompt} onInput=${set('system_prompt')} />
        <div class="numbers">
          ${Object.keys(NUMBERS).map(
            (name) => html`<${NumberField} key=${name} ...${{ name, value: fields[name], problem: problems[name], onInput: set(name) }} />`,
          )}
        </div>
        <p class="problem" role="alert">${problems.form}</p>
        <div class="actions">
          <button type="button" class="ghost" onClick=${reset}>${words.reset}</button>
          <button type="button" class="plain" onClick=${closeDialog}>${text.cancel}</button>
          <button type="submit" class="primary" disabled=${busy}>${text.save}</button>
        </div>
      </form>
    <//>
  `;
}

function Prompt({ value, problem, onInput }) {
  // On a phone the keyboard would hide the rest of the form.
  const focus = !touch.matches;
  return html`
    <div class="field">
      <label for="system_prompt">${words.systemPrompt}</label>
      <textarea
        id="system_prompt"
        name="system_prompt"
        rows="4"
        dir="auto"
        autofocus=${focus}
        placeholder=${words.systemPromptExample}
        value=${value}
        aria-invalid=${Boolean(problem)}
        aria-describedby="system_prompt-hint"
        onInput=${onInput}
      ></textarea>
      <${Hint} name="system_prompt" hint=${words.systemPromptHint} problem=${problem} />
    </div>
  `;
}

function NumberField({ name, value, problem, onInput }) {
  const { label, hint, mode } = NUMBERS[name];
  return html`
    <div class="field">
      <label for=${name}>${label}</label>
      <input
        id=${name}
        name=${name}
        type="text"
        inputmode=${mode}
        autocomplete="off"
        placeholder=${words.standard(session.value.defaults?.[name])}
        value=${value}
        aria-invalid=${Boolean(problem)}
        aria-describedby=${`${name}-hint`}
        onInput=${onInput}
      />
      <${Hint} ...${{ name, hint: hint(), problem }} />
    </div>
  `;
}

function Hint({ name, hint, problem }) {
  return html`<p id=${`${name}-hint`} class=${problem ? 'problem' : 'soft'}>${problem ?? hint}</p>`;
}
