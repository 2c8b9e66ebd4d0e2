// Which of its versions a message is, and the way to the others: < 2/3 >.
import { html } from './lib.js';
import { showVersion } from './answers.js';
import { Left, Right } from './icons.js';
import { inPlace } from './scroll.js';
import { status } from './state.js';
import { text } from './text.js';

export function Versions({ thread, message, versions }) {
  if (versions.length < 2) return null;
  const at = versions.indexOf(message);
  const step = (by) => (event) => {
    inPlace(event.currentTarget, () => showVersion(thread, versions[at + by]));
    status.value = text.versions.now(at + by + 1, versions.length);
  };
  // Disabled buttons would lose the focus of those who have come to an end.
  const button = (by, label, icon) => html`
    <button
      type="button"
      class="ghost small"
      aria-label=${label}
      title=${label}
      aria-disabled=${!versions[at + by]}
      onClick=${versions[at + by] ? step(by) : null}
    >
      <${icon} />
    </button>
  `;
  return html`
    <span class="versions" role="group" aria-label=${text.versions.name}>
      ${button(-1, text.versions.previous, Left)}
      <span aria-label=${text.versions.now(at + 1, versions.length)} role="img">${at + 1}/${versions.length}</span>
      ${button(1, text.versions.next, Right)}
    </span>
  `;
}
