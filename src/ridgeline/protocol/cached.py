"""What a replica tells its front doors of what it has cached and evicted, in their keys."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CacheReport:
    """What has changed since a number, or all that there is.

    Attributes:
        epoch: of the log; another one has other numbers.
        next: number to ask from the next time.
        whole: `cached` is all that is there, not what is new.
        cached: keys whose text is cached; on the device, or below it.
        evicted: keys whose text is not, or not any more.
    """

    epoch: str
    next: int
    whole: bool
    cached: tuple[bytes, ...]
    evicted: tuple[bytes, ...]

    def as_json(self) -> dict[str, object]:
        """Keys as hexadecimal digits."""
        return {
            "epoch": self.epoch,
            "next": self.next,
            "whole": self.whole,
            "cached": [key.hex() for key in self.cached],
            "evicted": [key.hex() for key in self.evicted],
        }

    @classmethod
    def from_json(cls, told: object) -> "CacheReport":
        """The same again; raises ValueError for what is none."""
        if not isinstance(told, dict):
            raise ValueError("a report is an object")
        try:
            cached, evicted = (tuple(map(bytes.fromhex, told[name])) for name in ("cached", "evicted"))
            return cls(str(told["epoch"]), int(told["next"]), bool(told["whole"]), cached, evicted)
        except (KeyError, TypeError) as error:
            raise ValueError(f"a report lacks {error}") from error
