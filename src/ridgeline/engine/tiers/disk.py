"""KV blocks as files, one per block, which outlive the server.

    FOLDER/<model>/lock                      held by the server that uses it
    FOLDER/<model>/3f/3fa94c...e1.kv         header, tokens (int64), content

`<model>` is a hash of whatever must be equal for contents to mean the same: weights, dtype, kernels,
block size, this program's version. A file is written under another name first, so that it is whole
or not there; and it is believed only if key, lengths and checksum agree.
"""

import fcntl
import logging
import os
import shutil
import struct
import zlib
from array import array
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from ridgeline.engine.core.copies import Record

logger = logging.getLogger(__name__)

FORMAT = b"RIDGKV01"
_HEADER = struct.Struct("<8s16s16sIQI")
"""Format, model, key, tokens, bytes of content, checksum of all that follows the header."""

SUFFIX = ".kv"
DISCOVERED_AT_ONCE = 4096


class FolderInUse(Exception):
    """Another server keeps its blocks there."""


class DiskStore:
    """Records in files of a folder.

    Args:
        folder: for the files of all models; made if it is not there.
        identity: of what makes contents comparable.

    Raises:
        FolderInUse: by another server with the same model.
        OSError: the folder cannot be made or written to.
    """

    name = "disk"

    def __init__(self, folder: Path, identity: str) -> None:
        self._model = blake2b(identity.encode(), digest_size=16).digest()
        self.folder = folder / self._model.hex()
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = _locked(self.folder)

    def write(self, key: bytes, record: Record) -> None:
        """See `Store.write`."""
        path = self._path(key)
        tokens, content = array("q", record.tokens).tobytes(), memoryview(record.content).cast("B")
        checksum = zlib.crc32(content, zlib.crc32(tokens))
        header = _HEADER.pack(FORMAT, self._model, key, len(record.tokens), len(content), checksum)
        part = path.with_suffix(".part")
        try:
            try:
                descriptor = _create(part)
            except FileNotFoundError:
                path.parent.mkdir(exist_ok=True, mode=0o700)
                descriptor = _create(part)
            try:
                for piece in (header, tokens, content):
                    _write_all(descriptor, piece)
            finally:
                os.close(descriptor)
            part.replace(path)
        except OSError:
            part.unlink(missing_ok=True)
            raise

    def read(self, key: bytes) -> Record | None:
        """See `Store.read`."""
        try:
            with self._path(key).open("rb", buffering=0) as file:
                data = file.readall()
        except FileNotFoundError:
            return None
        if data is None or len(data) < _HEADER.size:
            return None
        format_, model, own_key, tokens, length, checksum = _HEADER.unpack_from(data)
        start = _HEADER.size + 8 * tokens
        if (format_, model, own_key) != (FORMAT, self._model, key) or len(data) != start + length:
            return None
        if zlib.crc32(memoryview(data)[_HEADER.size :]) != checksum:
            return None
        ids = array("q", data[_HEADER.size : start])
        return Record(tuple(ids), np.frombuffer(data, np.uint8, offset=start))

    def delete(self, key: bytes) -> None:
        """See `Store.delete`."""
        self._path(key).unlink(missing_ok=True)

    def forget_cached(self, keys: Sequence[bytes]) -> None:
        """Write records through to the disk and out of the system's cache, to measure reading them."""
        for key in keys:
            descriptor = os.open(self._path(key), os.O_RDONLY)
            try:
                os.fdatasync(descriptor)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)

    def discover(self) -> Iterator[list[bytes]]:
        """See `Store.discover`. What was begun and not ended is removed."""
        found: list[tuple[float, bytes]] = []
        for part in os.scandir(self.folder):
            if not part.is_dir(follow_symlinks=False):
                continue
            for entry in os.scandir(part.path):
                key = _key_of(entry.name)
                if key is not None:
                    found.append((entry.stat(follow_symlinks=False).st_mtime, key))
                elif entry.name.endswith(".part"):
                    Path(entry.path).unlink()
        found.sort()
        for start in range(0, len(found), DISCOVERED_AT_ONCE):
            yield [key for _, key in found[start : start + DISCOVERED_AT_ONCE]]

    def close(self) -> None:
        """Let another server have the folder."""
        os.close(self._lock)

    def _path(self, key: bytes) -> Path:
        name = key.hex()
        return self.folder / name[:2] / f"{name}{SUFFIX}"


def remove_unused(folder: Path, most_bytes: int) -> None:
    """Remove models' folders that no server uses, longest unused first, until the rest is small enough.

    Args:
        folder: of all models.
        most_bytes: that unused ones may take together.
    """
    unused: list[tuple[float, Path, int]] = []
    for model in folder.iterdir():
        if len(model.name) != 32 or not model.is_dir() or model.is_symlink():
            continue
        try:
            os.close(_locked(model))
        except FolderInUse:
            continue
        files = list(model.rglob(f"*{SUFFIX}"))
        size = sum(file.stat().st_size for file in files)
        unused.append(((model / "lock").stat().st_mtime, model, size))
    total = sum(size for _, _, size in unused)
    for _, model, size in sorted(unused):
        if total <= most_bytes:
            return
        shutil.rmtree(model, ignore_errors=True)
        total -= size
        logger.info("removed KV blocks of a model that is not served any more: %s", model)


def _locked(folder: Path) -> int:
    """A descriptor that holds the folder's lock until it is closed. Raises FolderInUse."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise FolderInUse(f"{folder} is in use by another server") from None
    return descriptor


def _create(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _key_of(name: str) -> bytes | None:
    if len(name) != 32 + len(SUFFIX) or not name.endswith(SUFFIX):
        return None
    try:
        return bytes.fromhex(name.removesuffix(SUFFIX))
    except ValueError:
        return None
