// Logarithmic axes.
import { useEffect, useRef, useState } from '../lib.js';

// From values to pixels.
export function logScale(low, high, from, to) {
  const [bottom, top] = [Math.log10(low), Math.log10(high)];
  return (value) => from + ((Math.log10(value) - bottom) / (top - bottom)) * (to - from);
}

export const decadeBelow = (value) => 10 ** Math.floor(Math.log10(value));
export const decadeAbove = (value) => 10 ** Math.ceil(Math.log10(value));

export function decades(low, high) {
  const found = [];
  for (let exponent = Math.ceil(Math.log10(low) - 1e-9); exponent <= Math.log10(high); exponent++) found.push(10 ** exponent);
  return found;
}

// The width of an element in CSS pixels, so that letters in a drawing are as large as elsewhere.
export function useWidth(first) {
  const element = useRef();
  const [width, setWidth] = useState(first);
  useEffect(() => {
    const observer = new ResizeObserver(([entry]) => setWidth(Math.round(entry.contentRect.width)));
    observer.observe(element.current);
    return () => observer.disconnect();
  }, []);
  return [element, width];
}
