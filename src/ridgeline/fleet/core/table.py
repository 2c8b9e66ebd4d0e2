"""All replicas side by side, so that a choice among a thousand is a few operations on whole columns."""

import math
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ridgeline.fleet.core.replica import Replica

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_FIRST_ROWS = 8

_NEW = {
    "running": 0.0,
    "slots": 0.0,
    "up_seconds": 0.0,
    "told_seconds": 0.0,
    "told_wait": 0.0,
    "service": 1.0,
    "base": 0.0,
    "rate": 1.0,
    "pending": 0.0,
    "round_trip": 0.0,
    "kv_tokens": 0.0,
    "kv_used": 0.0,
    "full_until": -math.inf,
    "open_until": math.inf,
}
"""Columns, and what stands in rows that no replica has had."""


class Table:
    """A row for each replica, written whenever something about it changes.

    Columns that depend on the time are kept as what they are computed from. Rows of replicas that have left
    are used again; till then they serve nothing.
    """

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.ids: list[str] = []
        self._free: list[int] = []
        self._serves: dict[str, Bools] = {}
        self.running = _column("running")
        self.slots = _column("slots")
        self.up_seconds = _column("up_seconds")
        self.told_seconds = _column("told_seconds")
        self.told_wait = _column("told_wait")
        self.service = _column("service")
        self.base = _column("base")
        self.rate = _column("rate")
        self.pending = _column("pending")
        self.round_trip = _column("round_trip")
        self.kv_tokens = _column("kv_tokens")
        self.kv_used = _column("kv_used")
        self.full_until = _column("full_until")
        self.open_until = _column("open_until")

    def put(self, replica: Replica, round_trip_seconds: float) -> None:
        """Write a replica's row."""
        row = self.rows.get(replica.id)
        if row is None:
            row = self._new_row(replica)
        load = replica.load
        self.running[row] = replica.running
        self.slots[row] = replica.slots
        self.up_seconds[row] = replica.up_seconds
        self.told_seconds[row] = -math.inf if load is None else load.seconds
        self.told_wait[row] = 0.0 if load is None else load.wait_seconds
        self.service[row] = replica.service_seconds
        self.base[row] = replica.base_seconds
        self.rate[row] = replica.prefill_tokens_per_second
        self.pending[row] = replica.pending_tokens
        self.round_trip[row] = round_trip_seconds
        self.kv_tokens[row] = 0 if load is None else load.kv_tokens
        self.kv_used[row] = replica.kv_used_tokens
        self.full_until[row] = replica.full_until
        self.open_until[row] = _closed_until(replica)

    def drop(self, replica_id: str) -> None:
        """A replica is not there any more."""
        row = self.rows.pop(replica_id, None)
        if row is None:
            return
        for serves in self._serves.values():
            serves[row] = False
        self.ids[row] = ""
        self._free.append(row)

    def allowed(self, model: str, now: float, excluded: Collection[str]) -> Bools | None:
        """Who may be sent a request of this model; None where nobody may. Not to be written to."""
        serves = self._serves.get(model)
        if serves is None:
            return None
        allowed: Bools = serves & (self.open_until <= now)
        for replica_id in excluded:
            row = self.rows.get(replica_id)
            if row is not None:
                allowed[row] = False
        return allowed if allowed.any() else None

    def column(self, values: Mapping[str, float]) -> Floats:
        """A column of these values by replica, 0 for all others."""
        column: Floats = np.zeros(len(self.running))
        for replica_id, value in values.items():
            row = self.rows.get(replica_id)
            if row is not None:
                column[row] = value
        return column

    def _new_row(self, replica: Replica) -> int:
        if self._free:
            row = self._free.pop()
            self.ids[row] = replica.id
        else:
            row = len(self.ids)
            self.ids.append(replica.id)
            if row == len(self.running):
                self._grow()
        self.rows[replica.id] = row
        for model in replica.models:
            if model not in self._serves:
                self._serves[model] = np.zeros(len(self.running), np.bool_)
            self._serves[model][row] = True
        return row

    def _grow(self) -> None:
        columns: dict[str, Any] = {
            name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)
        }
        for name, column in columns.items():
            setattr(self, name, np.concatenate([column, np.full_like(column, _NEW[name])]))
        for model, serves in self._serves.items():
            self._serves[model] = np.concatenate([serves, np.zeros_like(serves)])


def _column(name: str) -> Floats:
    return np.full(_FIRST_ROWS, _NEW[name])


def _closed_until(replica: Replica) -> float:
    """Nothing is sent there before; never, while it is cordoned or a probe is on its way."""
    breaker = replica.breaker
    if replica.state != "up" or (breaker.pause_seconds and breaker.probing):
        return math.inf
    return breaker.open_until if breaker.pause_seconds else -math.inf
