"""What a tier is to those who move blocks, and the one in the memory of the host."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from ridgeline.engine.core.copies import Record


class Store(Protocol):
    """Keeps records under keys. Written by one thread and read by another."""

    name: str
    """"host" or "disk"; as the tier's ledger is called."""

    def write(self, key: bytes, record: Record) -> None:
        """Keep a record. Raises OSError."""
        ...

    def read(self, key: bytes) -> Record | None:
        """The record, or None if it is not there or not whole. Raises OSError."""
        ...

    def delete(self, key: bytes) -> None:
        """Forget a record; nothing if it is not there. Raises OSError."""
        ...

    def discover(self) -> Iterator[list[bytes]]:
        """Keys kept from before, oldest first, in parts. Raises OSError."""
        ...

    def close(self) -> None:
        """No call follows."""
        ...


class HostStore:
    """Records in the memory of this process."""

    name = "host"

    def __init__(self) -> None:
        self._records: dict[bytes, Record] = {}

    def write(self, key: bytes, record: Record) -> None:
        """A copy of its own: the record may be a part of something larger."""
        self._records[key] = Record(record.tokens, np.array(record.content))

    def read(self, key: bytes) -> Record | None:
        """See `Store.read`."""
        return self._records.get(key)

    def delete(self, key: bytes) -> None:
        """See `Store.delete`."""
        self._records.pop(key, None)

    def discover(self) -> Iterator[list[bytes]]:
        """Nothing outlives the process."""
        return iter(())

    def close(self) -> None:
        """Give the memory back."""
        self._records.clear()
