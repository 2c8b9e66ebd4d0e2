// What is shown before there is anything to talk to.
import { html, useState } from './lib.js';
import { Logo } from './icons.js';
import { text, title } from './text.js';

export function Loading() {
  return html`
    <main class="gate" aria-busy="true">
      <span class="offscreen">${text.loading.name}</span>
      <div class="late">
        <${Logo} large />
        <h1>${text.loading.title}</h1>
        <p>${text.loading.body}</p>
      </div>
    </main>
  `;
}

// `login` tries a key, `failed` says that the last one was wrong, `words` say what is asked for. Without
// words for that, it is never kept on the device.
export function Login({ login, failed, words = text.login }) {
  const [key, setKey] = useState('');
  const [stay, setStay] = useState(false);
  const [busy, setBusy] = useState(false);
  async function onSubmit(event) {
    event.preventDefault();
    setBusy(true);
    await login(key, stay);
    setBusy(false);
  }
  return html`
    <main class="gate">
      <form onSubmit=${onSubmit}>
        <${Logo} large />
        <h1>${title}</h1>
        <p>${words.body}</p>
        <label for="key">${words.key}</label>
        <input
          id="key"
          type="password"
          value=${key}
          required
          autofocus
          autocomplete="current-password"
          aria-invalid=${failed}
          aria-describedby="key-error"
          onInput=${(event) => setKey(event.target.value)}
        />
        <p id="key-error" class="bad" role="alert">${failed ? words.wrong : ''}</p>
        ${words.stay
          ? html`
              <div class="check">
                <input
                  id="stay"
                  type="checkbox"
                  checked=${stay}
                  aria-describedby="stay-hint"
                  onChange=${(event) => setStay(event.target.checked)}
                />
                <label for="stay">${words.stay}</label>
              </div>
            `
          : null}
        <p id="stay-hint" class="soft">${words.stayHint}</p>
        <button type="submit" class="primary" disabled=${busy || !key.trim()}>${words.submit}</button>
      </form>
    </main>
  `;
}

export function Unreachable() {
  return html`
    <main class="gate">
      <div role="status">
        <${Logo} large />
        <h1>${text.unreachable.title}</h1>
        <p>${text.unreachable.body}</p>
      </div>
    </main>
  `;
}
