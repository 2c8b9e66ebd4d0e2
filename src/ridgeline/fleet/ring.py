"""A ring file of a door's events, and how they are played again, bit for bit.

FILE.0  | snapshot | event | event | ...        two halves of the ring; when one is full, the other
FILE.1  | snapshot | event | ...                is begun anew, with the door as it is then
"""

import io
import logging
import os
import pickle
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ridgeline.fleet.core.decisions import Decision, Send
from ridgeline.fleet.core.door import Door

logger = logging.getLogger(__name__)

MAGIC = b"ridgeline door 3\n"
MOST_FRAME_BYTES = 1 << 30
_LENGTH = struct.Struct("<I")
_EVENTS = frozenset(
    "joined left told reported set_state arrive began ended left_by_client refused_full failed tick".split()
)
_ROOMS = ("ridgeline.fleet.core.", "ridgeline.admission.", "ridgeline.protocol.")
_OTHERS = frozenset(
    {
        ("random", "Random"),
        ("collections", "OrderedDict"),
        ("collections", "deque"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.numeric", "_frombuffer"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy.core.numeric", "_frombuffer"),
    }
)


class RingError(Exception):
    """The file cannot be played; the message says why in one sentence."""


class Ring:
    """Writes what a door is told and what it decides; a `Witness`.

    A disk that fails ends the recording, with a line in the log, and nothing else.

    Args:
        door: whose.
        path: the file's name, without the number of the half.
        most_bytes: of both halves together.
    """

    def __init__(self, door: Door, path: Path, most_bytes: int) -> None:
        self._door, self._path, self._half_bytes = door, path, most_bytes // 2
        self._half, self._written = 1, 0
        self._file: BinaryIO | None = None
        self._told = b""
        self._turn()

    def before(self, name: str, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        """See `Witness`. Written down at once: what is told may change afterwards."""
        if self._written > self._half_bytes:
            self._turn()
        self._told = pickle.dumps((name, arguments, named), 5)

    def after(self, decisions: list[Decision] | None) -> None:
        """See `Witness`."""
        self._write(pickle.dumps((self._told, [plain(each) for each in decisions or ()]), 5))

    def close(self) -> None:
        """Write no more."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _turn(self) -> None:
        self.close()
        self._half = 1 - self._half
        try:
            # Whoever reads it sees whom requests belong to, and which conversations begin alike.
            self._file = open(f"{self._path}.{self._half}", "wb", buffering=0, opener=_private)  # noqa: SIM115
        except OSError as error:
            self._give_up(error)
            return
        self._written = 0
        witness, self._door.witness = self._door.witness, None
        snapshot = pickle.dumps(self._door, 5)
        self._door.witness = witness
        self._write(snapshot, MAGIC)

    def _write(self, frame: bytes, before: bytes = b"") -> None:
        if self._file is None:
            return
        data = before + _LENGTH.pack(len(frame)) + frame
        try:
            self._file.write(data)
        except OSError as error:
            self._give_up(error)
        self._written += len(data)

    def _give_up(self, error: OSError) -> None:
        logger.error("%s: %s; decisions are recorded no more", self._path, error.strerror)
        self.close()
        self._door.witness = None


def record(door: Door, path: Path, most_bytes: int) -> Ring:
    """Begin to record a door; raises OSError where the file cannot be written."""
    Path(f"{path}.0").touch(mode=0o600)
    door.witness = ring = Ring(door, path, most_bytes)
    return ring


def plain(decision: Decision) -> tuple[Any, ...]:
    """A decision as data that can be compared."""
    if isinstance(decision, Send):
        return (
            "send",
            *(decision.request, decision.replica, decision.model, decision.attempt),
            *(decision.chosen, decision.others),
        )
    refusal = decision.refusal
    return ("refuse", decision.request, refusal.code, refusal.message, refusal.retry_after_seconds)


@dataclass(frozen=True, slots=True)
class Played:
    """An event that was played again.

    Attributes:
        half: of the ring, counted in the order of time.
        name: of the event.
        arguments: of it.
        then: what was decided.
        now: what is decided.
    """

    half: int
    name: str
    arguments: tuple[Any, ...]
    then: tuple[tuple[Any, ...], ...]
    now: tuple[tuple[Any, ...], ...]

    @property
    def same(self) -> bool:
        """Whether both are."""
        return self.then == self.now


def rewind(path: Path) -> Iterator[Played]:
    """Play all events of a ring again, oldest first; raises RingError."""
    halves = [Path(f"{path}.{half}") for half in (0, 1)]
    there = sorted((half for half in halves if half.exists()), key=lambda half: half.stat().st_mtime_ns)
    if not there:
        raise RingError(f"there is neither {halves[0]} nor {halves[1]}")
    for number, half in enumerate(there):
        yield from _play(half, number)


def _play(half: Path, number: int) -> Iterator[Played]:
    try:
        file = half.open("rb")
    except OSError as error:
        raise RingError(f"cannot read {half}: {error.strerror}") from error
    with file:
        if file.read(len(MAGIC)) != MAGIC:
            raise RingError(f"{half} is no recording of a front door by this version")
        door = _frame(file, half)
        if not isinstance(door, Door):
            raise RingError(f"{half} does not begin with a front door")
        while (frame := _frame(file, half)) is not None:
            told, then = frame
            name, arguments, named = _loads(told, half)
            if name not in _EVENTS:
                raise RingError(f"{half} has an event that no front door knows: {name!r:.50}")
            decisions = getattr(door, name)(*arguments, **named) or ()
            yield Played(number, name, arguments, tuple(then), tuple(plain(each) for each in decisions))


def _frame(file: BinaryIO, half: Path) -> Any:
    """None at the end; what a killed process left half written is the end too."""
    head = file.read(_LENGTH.size)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    if length > MOST_FRAME_BYTES:
        raise RingError(f"{half} is damaged")
    content = file.read(length)
    return None if len(content) < length else _loads(content, half)


class _Careful(pickle.Unpickler):
    """Makes what a door consists of, and nothing else: the file may come from anybody."""

    def find_class(self, module: str, name: str) -> Any:
        """Refuse all other names, and what a room has from elsewhere."""
        if "." not in name and (module.startswith(_ROOMS) or (module, name) in _OTHERS):
            found = super().find_class(module, name)
            if (module, name) in _OTHERS or getattr(found, "__module__", None) == module:
                return found
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a front door")


def _loads(content: bytes, half: Path) -> Any:
    try:
        return _Careful(io.BytesIO(content)).load()
    except Exception as error:  # whatever a damaged pickle raises
        raise RingError(f"{half} is damaged: {error}") from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
