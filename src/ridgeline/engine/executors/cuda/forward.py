"""The device's part of a step: from packed integers to logits and drawn tokens.

Nothing here reads host memory but the staged buffer, and nothing waits for the device.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ridgeline.engine.executors.cuda.arrays import (
    ExtraArrays,
    Sizes,
    StepArrays,
    device_plan,
    draw_settings,
    packed_length,
    unpack,
)
from ridgeline.engine.executors.cuda.device import Device
from ridgeline.kernels.cuda.kernels import CudaAttention
from ridgeline.kernels.cuda.penalties import count_drawn, penalise
from ridgeline.kernels.cuda.sampling import draw, resolve_tokens
from ridgeline.models.transformer import Transformer

logger = logging.getLogger(__name__)

_SCORED_AT_ONCE = 64
"""Prompt positions whose logits are held at a time; a row of them is the size of the vocabulary."""


@dataclass(slots=True)
class SlotMemory:
    """What stays on the device between steps, per slot.

    Attributes:
        tables: [slots, width] int32, block tables.
        drawn: [slots] int32, the token drawn last.
        counts: [slots, vocab] int32, see `penalise`; None until some sequence has penalties.
    """

    tables: torch.Tensor
    drawn: torch.Tensor
    counts: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class Computed:
    """What a forward pass left: hidden states of all tokens, logits of the rows that may draw."""

    hidden: torch.Tensor
    logits: torch.Tensor


class Forward:
    """Runs a model over packed steps, eagerly.

    Args:
        model: of these kernels.
        attention: the model's.
        memory: of the slots.
    """

    def __init__(self, model: Transformer, attention: CudaAttention, memory: SlotMemory) -> None:
        self.model = model
        self._chunk_queries = attention.chunk_queries
        self.memory = memory

    def compute(self, arrays: StepArrays[torch.Tensor], *, all_rows: bool) -> Computed:
        """Compute a step's tokens; logits of all of them, or of those named by `arrays.last`."""
        tokens = resolve_tokens(arrays.token_ids, arrays.slots, self.memory.drawn)
        plan = device_plan(arrays, self.memory.tables, self._chunk_queries)
        hidden = self.model.forward(tokens, plan)
        rows = hidden if all_rows else hidden.index_select(0, arrays.last)
        return Computed(hidden, self.model.logits(rows))

    def draw(self, arrays: StepArrays[torch.Tensor], logits: torch.Tensor) -> torch.Tensor:
        """Tokens of the rows that draw, [rows] int32; -1 where the logits are not finite."""
        return draw(logits, draw_settings(arrays), self.memory.drawn)

    def draw_adjusted(
        self,
        arrays: StepArrays[torch.Tensor],
        logits: torch.Tensor,
        extras: ExtraArrays[torch.Tensor],
        top: int,
    ) -> list[torch.Tensor]:
        """Draw with bias, penalties and bans, and score by the logits as they were before.

        Returns:
            Tokens [rows]; where rows are scored: log probability of their token [scored], of the
            best ones [scored, top], and the ids of those.
        """
        raw = logits.index_select(0, extras.scored).log_softmax(-1) if len(extras.scored) else None
        flat = logits.view(-1)
        if len(extras.bias):
            flat.index_add_(0, extras.bias_index, extras.bias)
        counts = self.memory.counts
        if len(extras.penalised):
            assert counts is not None, "a penalised sequence was admitted without counts"
            penalise(
                logits,
                extras.penalised,
                extras.penalised_slots,
                extras.repetition,
                extras.presence,
                extras.frequency,
                counts,
            )
        if len(extras.banned):
            flat.index_fill_(0, extras.banned.long(), float("-inf"))
        tokens = self.draw(arrays, logits)
        if len(extras.penalised):
            assert counts is not None
            count_drawn(counts, extras.penalised_slots, tokens.index_select(0, extras.penalised))
        if raw is None:
            return [tokens]
        chosen = tokens.index_select(0, extras.scored).clamp(min=0)
        return [tokens, *_scores(raw, chosen, top)]

    def score_prompt(
        self, hidden: torch.Tensor, extras: ExtraArrays[torch.Tensor], top: int
    ) -> list[torch.Tensor]:
        """Log probabilities of given successors, [scored], and of the best ones, [scored, top]."""
        parts = []
        for done in range(0, len(extras.prompt_index), _SCORED_AT_ONCE):
            index = extras.prompt_index[done : done + _SCORED_AT_ONCE]
            logits = self.model.logits(hidden.index_select(0, index))
            parts.append(_scores(logits.log_softmax(-1), extras.prompt_target[done : done + len(index)], top))
        return [torch.cat(tensors) for tensors in zip(*parts, strict=True)]


def _scores(logprobs: torch.Tensor, chosen: torch.Tensor, top: int) -> list[torch.Tensor]:
    """Of [rows, vocab]: that of the chosen tokens, the `top` best, and their ids (int32)."""
    own = logprobs.gather(1, chosen.long()[:, None])[:, 0]
    values, ids = logprobs.topk(top, dim=-1)
    return [own, values.contiguous(), ids.int()]


class GraphedDecode:
    """Decode at one batch size, recorded once that size has occurred twice.

    The first time runs eagerly, which also compiles what is not compiled yet; a size that never
    comes back is never recorded, nor is one whose graph there is no memory for.

    Args:
        forward: what is recorded.
        device: what records.
        sizes: of the arrays of such a step.
        draws: whether drawing is part of it; steps with special rows draw apart.
    """

    def __init__(self, forward: Forward, device: Device, sizes: Sizes, *, draws: bool) -> None:
        self._forward = forward
        self._device = device
        self._draws = draws
        self._buffer = torch.zeros(packed_length(sizes), dtype=torch.int32, device=device.torch_device)
        self.arrays = unpack(StepArrays, self._buffer, sizes)
        self._replay: Callable[[], None] | None = None
        self._runs = 0
        self._tokens: torch.Tensor | None = None
        self._computed: Computed | None = None

    @property
    def recorded(self) -> bool:
        """Whether a graph stands for it by now."""
        return self._replay is not None

    @property
    def tokens(self) -> torch.Tensor:
        """[rows] int32, of the last run, where drawing is part of it."""
        assert self._tokens is not None, "drawing is no part of this"
        return self._tokens

    @property
    def computed(self) -> Computed:
        """What the last run left, where drawing is no part of it."""
        assert self._computed is not None, "what the drawing needed is not kept"
        return self._computed

    def run(self, packed: torch.Tensor) -> "GraphedDecode":
        """Compute a step from its packed arrays in host memory."""
        self._buffer.copy_(packed, non_blocking=True)
        if self._runs == 1:
            self._record()
        if self._replay is None:
            self._compute()
        else:
            self._replay()
        self._runs += 1
        return self

    def _record(self) -> None:
        try:
            self._replay = self._device.record(self._compute)
        except torch.OutOfMemoryError:
            logger.warning(
                "steps of %d sequences stay slower: no GPU memory is left to record them; give less to "
                "--kv-memory",
                len(self.arrays.token_ids),
            )

    def _compute(self) -> None:
        computed = self._forward.compute(self.arrays, all_rows=True)
        # Logits are large, and a graph keeps whatever is still referred to when it is recorded.
        if self._draws:
            self._tokens = self._forward.draw(self.arrays, computed.logits)
        else:
            self._computed = computed
