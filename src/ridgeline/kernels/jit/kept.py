"""Where compiled kernels are kept, so that only the first start waits for them.

Numba tells by a file's date whether what it kept is still good, but not that another file changed
which was compiled into it. So each state of the sources gets a folder of its own.
"""

import hashlib
import logging
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import llvmlite
import numba
from numba.core import config

logger = logging.getLogger(__name__)

_FORGET_SECONDS = 30 * 24 * 3600
_KEY_FILE = "last-used"


def keep_kernels() -> None:
    """Choose the folder, unless `NUMBA_CACHE_DIR` names one; must come before what Numba is to keep."""
    if config.CACHE_DIR:
        return
    folder = kernels_folder()
    root = folder.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _KEY_FILE).touch()
    except OSError as error:
        folder = Path(tempfile.mkdtemp(prefix="ridgeline-kernels-"))
        logger.warning("compiled kernels cannot be kept in %s (%s); this start compiles them", root, error)
    else:
        _forget_others(root, folder)
    config.CACHE_DIR = str(folder)


def kernels_folder() -> Path:
    """Where the kernels of these sources are kept: under `RIDGELINE_CACHE`, or the user's cache directory."""
    given = os.environ.get("RIDGELINE_CACHE")
    if not given:
        from platformdirs import user_cache_dir  # not on every machine that only computes

        given = user_cache_dir("ridgeline")
    return Path(given) / "kernels" / _state()


def is_kept(function: str) -> bool:
    """Whether something that was compiled of this function is there."""
    return any(Path(config.CACHE_DIR).rglob(f"*{function}*.nbi"))


def _state() -> str:
    digest = hashlib.sha256(f"{numba.__version__} {llvmlite.__version__}".encode())
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _forget_others(root: Path, kept: Path) -> None:
    """Remove what older versions left, once nobody has used it for a while."""
    with suppress(OSError):  # another process may be at it too
        for folder in root.iterdir():
            unused = time.time() - (folder / _KEY_FILE).stat().st_mtime
            if folder != kept and unused > _FORGET_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
