// A button with a menu, as screen readers and keyboards know it: arrows move, letters jump, Enter
// chooses, Esc and Tab close it, and focus goes back to the button.
import { html, useLayoutEffect, useRef, useState } from './lib.js';

const GAP = 4;
const EDGE = 8;

// `items`: {label, detail, icon, run, checked, danger}; a null draws a line.
export function MenuButton({ label, items, children, kind = 'ghost', id, align = 'end', describedby }) {
  const [open, setOpen] = useState(false);
  const button = useRef();
  const close = (refocus) => {
    setOpen(false);
    if (refocus) button.current?.focus();
  };
  function onKeyDown(event) {
    if (event.key !== 'ArrowDown' && event.key !== 'ArrowUp') return;
    event.preventDefault();
    setOpen(true);
  }
  return html`
    <button
      type="button"
      id=${id}
      ref=${button}
      class=${kind}
      aria-haspopup="menu"
      aria-expanded=${open}
      aria-label=${label}
      title=${label}
      aria-describedby=${describedby}
      onClick=${() => setOpen(!open)}
      onKeyDown=${onKeyDown}
    >
      ${children}
    </button>
    ${open ? html`<${Menu} ...${{ label, items: items(), close, button, align }} />` : null}
  `;
}

function Menu({ label, items, close, button, align }) {
  const panel = useRef();
  const typed = useRef({ text: '', at: 0 });
  const entries = () => [...panel.current.querySelectorAll('[role^=menuitem]')];

  useLayoutEffect(() => {
    // In the top layer nothing can cut the menu off, be it a scrolling list or a drawer.
    panel.current.showPopover();
    place(panel.current, button.current, align);
    const checked = panel.current.querySelector('[aria-checked=true]');
    (checked ?? entries()[0])?.focus();
  }, []);
  // Before the menu is seen: a click that comes at once must close it too.
  useLayoutEffect(() => {
    const outside = (event) => {
      if (!panel.current?.contains(event.target) && !button.current?.contains(event.target)) close(false);
    };
    const moved = (event) => {
      if (!panel.current?.contains(event.target)) close(true);
    };
    document.addEventListener('pointerdown', outside, true);
    document.addEventListener('scroll', moved, true);
    addEventListener('resize', moved);
    return () => {
      document.removeEventListener('pointerdown', outside, true);
      document.removeEventListener('scroll', moved, true);
      removeEventListener('resize', moved);
    };
  }, []);

  function choose(item) {
    close(true);
    item.run();
  }
  function onKeyDown(event) {
    const all = entries();
    const at = all.indexOf(document.activeElement);
    const to = {
      ArrowDown: (at + 1) % all.length,
      ArrowUp: (at - 1 + all.length) % all.length,
      Home: 0,
      End: all.length - 1,
    }[event.key];
    if (to !== undefined) all[to].focus();
    else if (event.key === 'Escape' || event.key === 'Tab') close(true);
    else if (event.key.length === 1 && event.key !== ' ' && !event.ctrlKey && !event.metaKey) jump(event.key, all, at);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }
  function jump(sign, all, at) {
    const now = performance.now();
    const before = now - typed.current.at < 700 ? typed.current.text : '';
    typed.current = { text: before + sign.toLowerCase(), at: now };
    const from = before ? at : at + 1;
    const order = [...all.slice(from), ...all.slice(0, from)];
    order.find((entry) => entry.textContent.trim().toLowerCase().startsWith(typed.current.text))?.focus();
  }
  return html`
    <div ref=${panel} class="menu" role="menu" popover="manual" aria-label=${label} onKeyDown=${onKeyDown}>
      ${items.map((item, index) =>
        item ? html`<${Item} key=${index} item=${item} choose=${choose} />` : html`<div key=${index} role="separator"></div>`,
      )}
    </div>
  `;
}

function Item({ item, choose }) {
  const radio = item.checked !== undefined;
  return html`
    <button
      type="button"
      tabindex="-1"
      role=${radio ? 'menuitemradio' : 'menuitem'}
      aria-checked=${radio ? item.checked : null}
      class=${item.danger ? 'danger' : ''}
      onClick=${() => choose(item)}
      onPointerMove=${(event) => event.currentTarget.focus({ preventScroll: true })}
    >
      ${item.icon ? html`<${item.icon} />` : null}
      <span class="menu-text">
        <span>${item.label}</span>
        ${item.detail ? html`<small>${item.detail}</small>` : null}
      </span>
    </button>
  `;
}

function place(panel, button, align) {
  const from = button.getBoundingClientRect();
  const { width, height } = panel.getBoundingClientRect();
  const left = align === 'end' ? from.right - width : from.left;
  panel.style.left = `${Math.max(EDGE, Math.min(left, innerWidth - width - EDGE))}px`;
  const below = from.bottom + GAP;
  const fits = below + height + EDGE <= innerHeight;
  panel.style.top = `${fits ? below : Math.max(EDGE, from.top - GAP - height)}px`;
}
