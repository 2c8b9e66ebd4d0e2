"""What it takes to compute KV again that was thrown away, by its place in the prompt."""

from ridgeline.roofline.cost import step_cost
from ridgeline.roofline.hardware import Hardware
from ridgeline.roofline.shape import ModelShape
from ridgeline.roofline.work import Work


def recompute_seconds(
    shape: ModelShape, hardware: Hardware, dtype: str, *, start_token: int, tokens: int
) -> float:
    """Seconds of arithmetic for so many tokens of a prompt, the first at position `start_token`.

    The arithmetic alone, as part of prompts long enough to be bound by it: what a step reads of the
    weights and takes to launch it takes with or without these tokens.
    """
    work = Work.of([(tokens, start_token)], 0, shape.windows)
    return step_cost(shape, hardware, dtype, work).compute_seconds
