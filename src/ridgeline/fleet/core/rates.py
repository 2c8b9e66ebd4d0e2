"""How fast a replica is believed to be before its answers tell."""

from ridgeline.roofline import HARDWARE, KNOWN_SHAPES, Work, step_cost

FIRST_RATE = 4000.0
"""Prompt tokens per second, where nothing is known of the model or the hardware."""

CHUNK_TOKENS = 2048
DTYPE = "bfloat16"


def first_rate(model: str, hardware: str | None) -> float:
    """Prompt tokens per second: the cost model's for a chunk of a long prompt, where it knows both.

    Args:
        model: by name.
        hardware: in the catalogue; None where the file does not tell.
    """
    shape, device = KNOWN_SHAPES.get(model.lower()), HARDWARE.get(hardware or "")
    if shape is None or device is None:
        return FIRST_RATE
    work = Work.of([(CHUNK_TOKENS, 0)], 1, shape.windows)
    return CHUNK_TOKENS / step_cost(shape, device, DTYPE, work).seconds
