"""From a sequence to its part of a plan, and whether its answer is over."""

from ridgeline.engine.core.plan import IN_FLIGHT, Admission, Row
from ridgeline.engine.core.sequence import LaunchedRow, Sequence
from ridgeline.protocol import FinishReason


def admission_of(sequence: Sequence) -> Admission:
    """What the executor is told of a sequence that takes a slot."""
    spec = sequence.spec
    assert sequence.slot is not None, "an admitted sequence has a slot"
    return Admission(
        sequence.slot,
        tuple(sequence.tokens),
        len(spec.prompt),
        spec.sampling,
        banned_token_ids=tuple(sorted(spec.stop_token_ids)) if spec.min_tokens else (),
        min_tokens=spec.min_tokens,
    )


def launch(sequence: Sequence, count: int, drafts: tuple[int, ...] = ()) -> tuple[Row, LaunchedRow]:
    """The next `count` tokens of a sequence, and drafts, as a row and as what commit needs of it."""
    start = sequence.next_position
    end = start + count
    token_ids = tuple(sequence.tokens[start:end])
    sampled = end == len(sequence.tokens) + sequence.drawing and sequence.spec.max_tokens > 0
    assert sequence.slot is not None, "a row needs a slot"
    row = Row(
        sequence.slot,
        start,
        token_ids + (IN_FLIGHT,) * (count - len(token_ids)) + drafts,
        tuple(sequence.blocks[sequence.told_blocks :]),
        sample=sampled,
        score_prompt=sequence.scores_prompt and start + 1 < len(sequence.spec.prompt),
        drafts=len(drafts),
    )
    sequence.told_blocks = len(sequence.blocks)
    sequence.scheduled += count
    sequence.drawing += sampled
    return row, LaunchedRow(sequence, sequence.epoch, start, count, sampled, len(drafts))


def ending(sequence: Sequence, last: int | None) -> tuple[FinishReason | None, int | None]:
    """Whether the answer is over with the token drawn last, if one was, and by which stop token."""
    spec = sequence.spec
    if last in spec.stop_token_ids and sequence.generated > spec.min_tokens:
        return "stop", last
    if spec.max_tokens == 0:
        return ("length" if sequence.computed >= len(spec.prompt) else None), None
    return ("length" if sequence.generated >= spec.max_tokens else None), None
