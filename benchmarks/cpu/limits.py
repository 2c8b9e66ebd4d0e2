"""What the machine's ceilings allow in each row, whoever computes.

The limit takes the least there is to do: every weight is read once a step as it lies in the model's
file (some 5 bits), K and V once as Ridgeline stores them; products of weights are in int8, those of
attention in float32, or all of them in bfloat16 in AMX tiles where that is faster; reading and computing
overlap.
What else a step does costs nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cpu.rows import ANSWER_TOKENS, NEW_TOKENS, Row
from ridgeline.roofline.cost import Work, step_cost
from ridgeline.roofline.hardware import PRINTED_PEAKS, Hardware
from ridgeline.roofline.shape import ModelShape


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Of all threads together; 0 operations in tiles where there are none."""

    read_bytes_per_second: float
    int8_operations_per_second: float
    float32_operations_per_second: float
    tile_operations_per_second: float = 0.0


@dataclass(frozen=True, slots=True)
class Model:
    """What is computed, the bytes that a weight takes on average, and what K and V are stored in."""

    shape: ModelShape
    bytes_per_weight: float
    kv_dtype: str = "float16"


def step_seconds(ceilings: Ceilings, model: Model, work: Work) -> float:
    """Least time of a step."""
    hardware = Hardware("here", 0, 1.0, {"int8": 1.0}, efficiency=PRINTED_PEAKS)

    def cost_of(some: Work) -> tuple[float, float]:
        cost = step_cost(model.shape, hardware, "int8", some, kv_dtype=model.kv_dtype)
        return cost.flops, cost.bytes

    flops, moved = cost_of(work)
    products, _ = cost_of(Work(work.new_tokens, work.cached_tokens, 0, work.logit_rows))
    _, weights = cost_of(Work(0, 0, 0, work.logit_rows))
    moved += weights * (model.bytes_per_weight - 1.0)  # it was counted as one byte each
    tiles = ceilings.tile_operations_per_second
    computing = products / max(ceilings.int8_operations_per_second, tiles)
    computing += (flops - products) / max(ceilings.float32_operations_per_second, tiles)
    return max(computing, moved / ceilings.read_bytes_per_second)


def best_rate(
    row: Row, ceilings: Ceilings, model: Model, prompt_tokens: Sequence[float] = ()
) -> float | None:
    """Tokens per second that cannot be exceeded; None for rows that are times.

    Args:
        row: any of them.
        ceilings: measured.
        model: the one computed.
        prompt_tokens: of chats, the mean length of each turn's whole prompt, which decides how much
            of it is new; without it chats have no limit.
    """
    task = row.task
    if row.less_is_better:
        return None
    if task.kind == "prefill":
        seconds = step_seconds(ceilings, model, Work.of([(task.prompt_tokens, 0)], 1))
        return task.prompt_tokens / seconds
    if task.kind == "decode":
        context = task.prompt_tokens + NEW_TOKENS // 2
        return task.sequences / step_seconds(ceilings, model, _decode(task.sequences, context))
    if not prompt_tokens:
        return None
    seconds, before = 0.0, 0.0
    for turn, prompt in enumerate(prompt_tokens):
        new = round(prompt - before)
        # The system prompt is about all of the first prompt; it is computed once.
        alone = round(prompt * _shared_share(prompt_tokens)) if turn == 0 else 0
        works = [(new - alone, round(before) + alone)] * task.sequences
        if alone:
            works.append((alone, 0))
        seconds += step_seconds(ceilings, model, Work.of(works, task.sequences))
        decode = _decode(task.sequences, round(prompt) + ANSWER_TOKENS // 2)
        seconds += (ANSWER_TOKENS - 1) * step_seconds(ceilings, model, decode)
        before = prompt + ANSWER_TOKENS
    return task.sequences * ANSWER_TOKENS * len(prompt_tokens) / seconds


def _decode(sequences: int, context: int) -> Work:
    return Work.of([(1, context)] * sequences, sequences)


def _shared_share(prompt_tokens: Sequence[float]) -> float:
    """Of the first prompt: what is not a question, which the later turns show the length of."""
    if len(prompt_tokens) < 2:
        return 0.0
    question = prompt_tokens[1] - prompt_tokens[0] - ANSWER_TOKENS
    return max(0.0, 1.0 - question / prompt_tokens[0])
