// Comes before everything else, and needs nothing else. The colours that were chosen on this device are
// there before anything is drawn. Where a file of the page is missing, since the server has gone meanwhile
// or serves a newer page, says so and loads the page again.
{
  try {
    document.documentElement.dataset.appearance = localStorage.getItem('ridgeline.appearance') ?? 'system';
  } catch {
    // storage may be forbidden
  }

  const RETRY_MS = 2000;
  const LONGEST_MS = 60_000; // where the server answers and a file is missing all the same
  const RELOADS = 'ridgeline.reloads';
  let waiting = false;

  const missing = ({ target }) => {
    if (waiting || !(target instanceof HTMLElement)) return; // a mistake in a script has no element
    waiting = true;
    document.readyState === 'loading' ? addEventListener('DOMContentLoaded', wait) : wait();
  };

  const wait = () => {
    const words = document.getElementById('missing');
    if (words) {
      document.getElementById('underway').hidden = true;
      words.hidden = false;
    }
    setTimeout(tryAgain, Math.min(LONGEST_MS, RETRY_MS * 2 ** reloads()));
  };

  const tryAgain = async () => {
    // A page that lives without its looks may be in use, and once more would not help.
    if (reloads() && !document.getElementById('missing')) return undefined;
    try {
      const { ok } = await fetch(location.href, { method: 'HEAD', cache: 'no-store' });
      if (ok) {
        reloads(reloads() + 1);
        return location.reload();
      }
    } catch {
      // still gone
    }
    return setTimeout(tryAgain, RETRY_MS);
  };

  // How often in a row the page has been loaded again.
  const reloads = (count) => {
    try {
      if (count !== undefined) sessionStorage.setItem(RELOADS, count);
      return Number(sessionStorage.getItem(RELOADS));
    } catch {
      return 0; // storage may be forbidden
    }
  };

  addEventListener('error', missing, true);
  addEventListener('load', () => {
    if (!waiting) reloads(0);
    removeEventListener('error', missing, true); // what comes later is asked for by those who try again
  });
}
