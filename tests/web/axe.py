"""axe-core, which looks for barriers in a page; `python tests/web/axe.py [VERSION]` renews it."""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("vendor")
MANIFEST = FOLDER / "manifest.json"
_FILES = {
    "axe.min.js": "axe.min.js",
    "LICENSE-axe-core.txt": "LICENSE",
    "LICENSE-axe-core-third-party.txt": "LICENSE-3RD-PARTY.txt",
}
# WCAG 2.0 to 2.2, levels A and AA, and axe's own best practices.
_RUN = """async () => {
    // A colour on its way to another is nobody's choice of contrast.
    const moving = document.getAnimations().filter((a) => a.effect.getComputedTiming().iterations < Infinity);
    const ended = Promise.all(moving.map((animation) => animation.finished.catch(() => {})));
    // One that is paused, or that no frame is drawn for, never ends.
    await Promise.race([ended, new Promise((done) => setTimeout(done, 1000))]);
    const { violations } = await axe.run(document, {
        runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice'],
        resultTypes: ['violations'],
    });
    return violations.flatMap(({ id, help, nodes }) =>
        nodes.map((node) => `${id}: ${help} at ${node.target.join(' ')}: ${node.failureSummary}`));
}"""


def violations(page: Any) -> list[str]:
    """What axe-core finds in a Playwright page as it stands, one sentence per element."""
    # Evaluated rather than added as a script: the page's own policy forbids inline scripts.
    if not page.evaluate("() => 'axe' in window"):
        page.evaluate((FOLDER / "axe.min.js").read_text(encoding="utf-8"))
    found: list[str] = page.evaluate(_RUN)
    return found


def renew(version: str) -> None:
    """Fetch axe-core from npm, with its licences."""
    from ridgeline.web.vendor import fetch, sha256

    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        exact, files = fetch("axe-core", version, Path(scratch))
    for name, path in _FILES.items():
        (FOLDER / name).write_bytes(files[path])
    entry = {
        "package": "axe-core",
        "version": exact,
        "licence": "MPL-2.0",
        "files": {name: sha256((FOLDER / name).read_bytes()) for name in _FILES},
    }
    MANIFEST.write_text(json.dumps(entry, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    renew(sys.argv[1] if len(sys.argv) > 1 else "latest")
