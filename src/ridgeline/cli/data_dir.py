"""The folder where a server keeps its conversations: writable, with room, and its own."""

import fcntl
import os
import shutil
from pathlib import Path

from ridgeline.cli.errors import CommandFailed

MIN_FREE_BYTES = 16 * 2**20
"""Below this a conversation could not be kept for long; better told at the start."""

LOCK = "server.lock"


def claim(given: Path | None) -> Path:
    """Make the folder (None: the user's own data folder) this process' until it ends.

    Raises:
        CommandFailed: it cannot be written, is full, or another server has it.
    """
    if given is None:
        from platformdirs import user_data_path

        given = user_data_path("ridgeline")
    try:
        given.mkdir(parents=True, exist_ok=True)
        _lock(given)
        probe = given / ".writable"
        probe.write_bytes(b"x" * 4096)
        probe.unlink()
    except OSError as error:
        raise CommandFailed(
            f"cannot write to {given} ({error.strerror}), where conversations are kept:"
            " make room there or choose another folder with --data-dir"
        ) from error
    free = shutil.disk_usage(given).free
    if free < MIN_FREE_BYTES:
        raise CommandFailed(
            f"the disk of {given} is full ({free / 2**20:.0f} MiB free, {MIN_FREE_BYTES >> 20} are needed):"
            " make room there or choose another folder with --data-dir"
        )
    return given


def _lock(folder: Path) -> None:
    """A second server would take the answers that the first is making for interrupted ones."""
    # Never closed: the system gives the lock back when the process ends, however it ends.
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 20).decode(errors="replace").strip()
        os.close(descriptor)
        raise CommandFailed(
            f"another server (process {holder}) keeps its conversations in {folder}:"
            " stop it, or choose another folder with --data-dir"
        ) from None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"{os.getpid()}\n".encode())
