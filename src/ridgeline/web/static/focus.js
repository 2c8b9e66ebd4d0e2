// Focus is never lost: where what had it goes away, something near takes it.
import { touch } from './typing.js';

// Once the page is drawn anew, and unless the reader has moved on: to what `find` finds, or to the
// message box, which is always there. On a phone that would bring up the keyboard.
export function keepFocus(find) {
  requestAnimationFrame(() => {
    if (usable(document.activeElement)) return; // the browser lets go of others only later
    const found = find();
    const fallback = () => document.getElementById(touch.matches ? 'open-list' : 'message');
    (usable(found) ? found : fallback())?.focus();
  });
}

function usable(element) {
  return (
    element?.isConnected &&
    element !== document.body &&
    !element.closest('[inert]') &&
    element.checkVisibility({ visibilityProperty: true })
  );
}
