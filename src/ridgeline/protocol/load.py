"""How full a replica is, in one header of each of its answers: a front door knows it without asking."""

import math
from dataclasses import dataclass, fields

LOAD_HEADER = "x-ridgeline-load"

MAX_HEADER_CHARACTERS = 500


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """The load of one model.

    Attributes:
        running: sequences in its batch, the one that is answered included.
        slots: most of them.
        waiting: in its line.
        kv_held: share of KV blocks that running sequences hold.
        kv_tokens: that all KV blocks have room for.
        wait_seconds: what one who comes now waits for.
        kv_promised: share that those who run and those who wait are expected to take yet.
        cache_log: number of the next entry in its log of what is cached, see `CacheReport`.
    """

    running: int
    slots: int
    waiting: int
    kv_held: float
    kv_tokens: int
    wait_seconds: float
    kv_promised: float = 0.0
    cache_log: int = 0

    def header(self) -> str:
        """`running=3; slots=16; ...`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return "; ".join(f"{name}={round(value, 4)}" for name, value in values.items())

    @classmethod
    def parse(cls, header: str) -> "ReplicaLoad | None":
        """What a header says; None where it is not one of ours."""
        found: dict[str, float] = {}
        for part in header[:MAX_HEADER_CHARACTERS].split(";"):
            name, _, value = part.strip().partition("=")
            try:
                found[name] = float(value)
            except ValueError:
                return None
            if not 0 <= found[name] < math.inf:
                return None
        try:
            counts = {name: int(found[name]) for name in ("running", "slots", "waiting", "kv_tokens")}
            log = int(found.get("cache_log", 0))
            return cls(
                **counts,
                kv_held=found["kv_held"],
                wait_seconds=found["wait_seconds"],
                kv_promised=found.get("kv_promised", 0.0),
                cache_log=log,
            )
        except KeyError:
            return None
