"""Where fetched models lie, and how one is put there without ever being half there."""

import errno
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ridgeline.models.errors import ModelError

_TEMPORARY = "fetching-"
_ABANDONED_SECONDS = 24 * 3600
"""A staging directory this old was left by a process that was killed."""


def cache_dir() -> Path:
    """The directory of fetched models: `RIDGELINE_CACHE`, or the user's cache directory."""
    given = os.environ.get("RIDGELINE_CACHE")
    if not given:
        from platformdirs import user_cache_dir  # not on every machine that only computes

        given = user_cache_dir("ridgeline")
    return Path(given) / "models"


@contextmanager
def staging_dir(root: Path) -> Iterator[Path]:
    """A fresh directory in `root`, on the same file system, removed whatever happens.

    Raises:
        ModelError: when the disk is full or `root` cannot be written.
    """
    with disk_errors(root):
        root.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(root)
        path = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=root))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _remove_abandoned(root: Path) -> None:
    for path in root.glob(f"{_TEMPORARY}*"):
        with suppress(OSError):  # another process may be removing it too
            if time.time() - path.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn what a full, read-only or forbidden disk raises into a `ModelError`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(path) from error
        raise ModelError(
            f"{path} cannot be written ({error.strerror}); set RIDGELINE_CACHE to a directory that can."
        ) from error


def disk_full(path: Path) -> ModelError:
    """The error for a file system without room for the model."""
    return ModelError(
        f"the disk with {path} is full; free some space there or set RIDGELINE_CACHE to another disk."
    )


def sha256_of(path: Path) -> str:
    """Hex digest of a file's contents."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
