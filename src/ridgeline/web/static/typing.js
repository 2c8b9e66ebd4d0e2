// What the message box and the box for editing have in common.

// On a phone Enter is the only way to a new line.
export const touch = matchMedia('(pointer: coarse)');

// Whether a key means: send this.
export function sends(event) {
  if (event.key !== 'Enter' || event.shiftKey || event.altKey) return false;
  if (event.isComposing || event.keyCode === 229) return false; // the Enter that ends a composition
  return !touch.matches || event.ctrlKey || event.metaKey;
}

// As high as what is in it; CSS says where that ends.
export function fit(box) {
  box.style.height = 'auto';
  box.style.height = `${box.scrollHeight}px`;
}
