"""What of a prompt did not have to be computed, told once for each sequence."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Asked:
    """A sequence was admitted for the first time.

    Attributes:
        seconds: when.
        keys: of its prompt's full blocks.
        hit_blocks: found on the device, those among them that were loaded for it.
        load_seconds: that loading took.
    """

    seconds: float
    keys: tuple[bytes, ...]
    hit_blocks: int
    load_seconds: float
