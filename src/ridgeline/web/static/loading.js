// Comes before everything else, and needs nothing else: where a file of the page is missing, since
// the server has gone meanwhile or serves a newer page, says so and loads the page again.
{
  const RETRY_MS = 2000;
  let waiting = false;

  const missing = ({ target }) => {
    if (waiting || !(target instanceof HTMLElement)) return; // a mistake in a script has no element
    waiting = true;
    setTimeout(tryAgain, RETRY_MS);
    document.readyState === 'loading' ? addEventListener('DOMContentLoaded', say) : say();
  };

  const say = () => {
    const words = document.getElementById('missing');
    if (!words) return; // the page has come to life, if without its looks
    document.getElementById('underway').hidden = true;
    words.hidden = false;
  };

  const tryAgain = async () => {
    try {
      const { ok } = await fetch(location.href, { method: 'HEAD', cache: 'no-store' });
      if (ok) return location.reload();
    } catch {
      // still gone
    }
    return setTimeout(tryAgain, RETRY_MS);
  };

  addEventListener('error', missing, true);
  // What comes later is tried again by those who asked for it.
  addEventListener('load', () => removeEventListener('error', missing, true));
}
