// Keeps a scrolling box at its end while its content grows, until the reader scrolls up.
import { signal } from './lib.js';

const NEAR = 48; // pixels from the end that still count as the end

export class StickyScroll {
  constructor() {
    this.stuck = signal(true);
    this.top = 0;
    this.active = false;
  }

  attach(box, content) {
    this.box = box;
    const onScroll = () => this.scrolled();
    box.addEventListener('scroll', onScroll, { passive: true });
    const observer = new ResizeObserver(() => this.follow());
    observer.observe(content);
    observer.observe(box);
    return () => {
      box.removeEventListener('scroll', onScroll);
      observer.disconnect();
    };
  }

  scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.box;
    const atEnd = scrollHeight - clientHeight - scrollTop < NEAR;
    // Content that grows moves the end away but not the reader: only moving up lets go.
    if (atEnd) this.stuck.value = true;
    else if (scrollTop < this.top - 2) this.stuck.value = false;
    this.top = scrollTop;
  }

  follow() {
    if (!this.stuck.value || !this.active) return;
    this.box.scrollTop = this.box.scrollHeight;
    this.top = this.box.scrollTop;
  }

  toEnd() {
    this.stuck.value = true;
    const calm = matchMedia('(prefers-reduced-motion: reduce)').matches;
    this.box.scrollTo({ top: this.box.scrollHeight, behavior: calm ? 'auto' : 'smooth' });
  }
}

export const scroll = new StickyScroll();

// Does something that changes what is below an element, without moving the element.
export function inPlace(element, change) {
  const { box } = scroll;
  const before = element.getBoundingClientRect().top;
  scroll.stuck.value = false;
  change();
  requestAnimationFrame(() => {
    box.scrollTop += element.getBoundingClientRect().top - before;
    scroll.scrolled();
  });
}
