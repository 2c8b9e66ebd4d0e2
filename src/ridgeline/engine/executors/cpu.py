"""The executor that computes on the CPU."""

import time
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ridgeline.engine.core.plan import (
    Admission,
    Handle,
    Row,
    RowResult,
    Score,
    Snapshot,
    StepPlan,
    StepResult,
)
from ridgeline.engine.executors.cpu_models import Weights, resolve_dtype, resolve_kv_dtype, weight_bytes
from ridgeline.engine.executors.cpu_peaks import this_processor
from ridgeline.engine.executors.kv_size import plan_geometry
from ridgeline.engine.executors.memory import available_bytes, gib, physical_cores
from ridgeline.engine.executors.slots import Layout, Slots, checked
from ridgeline.models.computed import Computed
from ridgeline.models.errors import ModelError
from ridgeline.models.files import ModelFiles
from ridgeline.models.logits import SamplingState
from ridgeline.models.sampling import NON_FINITE, TokenScore, finite_rows, sample, score

_SCORED_AT_ONCE = 64
"""Prompt positions whose logits are held at a time; a row of them is the size of the vocabulary."""

_live: "weakref.WeakSet[CpuExecutor]" = weakref.WeakSet()
"""Executors of this process: their KV caches may still grow into memory that looks available."""


@dataclass(slots=True)
class CpuSlot:
    """A sequence. `known_tokens` counts prompt and answer as far as they were drawn or given."""

    prompt_ids: tuple[int, ...]
    sampling: SamplingState
    known_tokens: int

    @classmethod
    def of(cls, admission: Admission) -> "CpuSlot":
        """As it is admitted."""
        prompt = admission.token_ids[: admission.prompt_tokens]
        answer = admission.token_ids[admission.prompt_tokens :]
        state = SamplingState(
            admission.sampling, prompt, answer, admission.banned_token_ids, admission.min_tokens
        )
        return cls(prompt, state, len(admission.token_ids))

    def note_given(self, row: Row) -> None:
        """Count tokens of the answer that were given by the plan instead of drawn here."""
        end = row.start + len(row.known)
        if end > self.known_tokens:
            for token in row.known[self.known_tokens - end :]:
                self.sampling.record(token)
            self.known_tokens = end


@dataclass(slots=True)
class CpuHandle(Handle):
    """A computed step whose tokens are still to be drawn.

    Attributes:
        layout: where in the batch each row is.
        computed: with logits of the rows that draw.
        seconds: what computing took.
    """

    layout: Layout
    computed: Computed
    seconds: float


class CpuExecutor:
    """Runs a model of the Llama family on the CPU. See `Executor`.

    Args:
        files: the model.
        dtype: float32 or bfloat16, of weights, KV cache and sums between layers; int8, of what is
            multiplied, with weights of 4 or 8 bits and a KV cache in float16; for `auto` see
            `resolve_dtype`.
        kv_dtype: of the KV cache: `auto`; beside int8 also float16 and int8.
        kv_memory_bytes: size of the KV cache. None takes what `max_batch` sequences of
            `max_context_tokens` need, at most 40 % of the memory available once the weights are
            loaded. It is taken from the system only as it fills.
        max_batch: most sequences in a step.
        max_context_tokens: most tokens of a sequence; None is the model's own limit. It is lowered
            to what the KV cache holds.
        threads: that compute; None is one per physical core that the process may use.

    Raises:
        ModelError: for a dtype that is not supported, or too little memory.
    """

    depth = 0

    def __init__(
        self,
        files: ModelFiles,
        *,
        dtype: str,
        kv_dtype: str = "auto",
        kv_memory_bytes: int | None,
        max_batch: int,
        max_context_tokens: int | None,
        threads: int | None = None,
    ) -> None:
        config = files.config
        self.dtype = resolve_dtype(dtype, config)
        threads = threads or physical_cores()
        torch.set_num_threads(threads)
        _check_weights_fit(files, self.dtype)
        self.kv_dtype = resolve_kv_dtype(kv_dtype, self.dtype)
        weights = Weights(files, self.dtype, self.kv_dtype, threads)
        self.weight_bytes = weights.bytes()
        """What a step reads of the weights."""
        self.geometry = plan_geometry(
            config,
            self.kv_dtype,
            kv_memory_bytes=kv_memory_bytes,
            available=_available_bytes(),
            max_batch=max_batch,
            max_context_tokens=min(max_context_tokens or config.max_context, config.max_context),
        )
        self.model = weights.model(
            blocks=self.geometry.blocks,
            block_size_tokens=self.geometry.block_size_tokens,
            max_context_tokens=self.geometry.max_context_tokens,
        )
        self.hardware = this_processor(self.dtype, threads)
        self._slots = Slots(self.geometry, CpuSlot.of)
        self.kernels = self.model.kernel_name
        usual = self.kv_dtype == resolve_kv_dtype("auto", self.dtype)
        stored = "" if usual else f"-kv-{self.kv_dtype}"
        self.fingerprint = f"{files.fingerprint}-{self.dtype}-{self.kernels}{stored}"
        _live.add(self)

    def launch(self, plan: StepPlan) -> CpuHandle:
        """Compute the step's tokens; on the CPU nothing is left to wait for but the drawing.

        Raises:
            ValueError: for a plan that cannot be carried out; nothing is changed then.
        """
        self._slots.apply(plan)
        for row in plan.rows:
            self._slots[row.slot].note_given(row)
        layout = self._slots.lay_out(plan.rows)
        started = time.perf_counter()
        drawing = [place for places in layout.drawing(plan.rows) for place in places]
        with torch.inference_mode():
            computed = self.model.forward(layout.batch, np.array(drawing, np.int64))
        return CpuHandle(plan, layout, computed, time.perf_counter() - started)

    def collect(self, handle: Handle) -> StepResult:
        """Draw the step's tokens and score what was asked for."""
        assert isinstance(handle, CpuHandle)
        started = time.perf_counter()
        with torch.inference_mode():
            rows = self._results(handle)
        for row, result in zip(handle.plan.rows, rows, strict=True):
            if result.error is not None:
                self.model.clean(self._slots.blocks(row.slot))
        return StepResult(rows, handle.seconds + time.perf_counter() - started)

    def read_blocks(self, blocks: Sequence[int]) -> Snapshot:
        """See `Executor.read_blocks`."""
        contents = self.model.read_blocks(np.array(blocks, np.int64))
        return lambda: list(contents)

    def write_blocks(self, blocks: Sequence[int], contents: Sequence[Any]) -> None:
        """See `Executor.write_blocks`."""
        self.model.write_blocks(np.array(blocks, np.int64), checked(contents, self.geometry.block_bytes))

    def close(self) -> None:
        """Give weights and KV cache back to the system."""
        _live.discard(self)
        self.model.close()
        del self.model

    def _results(self, handle: CpuHandle) -> tuple[RowResult, ...]:
        rows = handle.plan.rows
        results = [
            self._score_prompt(handle, i) if row.score_prompt else RowResult() for i, row in enumerate(rows)
        ]
        drawing = _places_of_logits(rows)
        while drawing:  # once, and again for those whose drafts were right so far
            drawing = self._draw(rows, drawing, handle.computed, results)
        return tuple(results)

    def _draw(
        self, rows: Sequence[Row], drawing: dict[int, int], computed: Computed, results: list[RowResult]
    ) -> dict[int, int]:
        """Draw the next token of each row at its place in the logits; who goes on, and at which place."""
        places = list(drawing.values())
        slots = [self._slots[rows[i].slot] for i in drawing]
        positions = [rows[i].start + len(rows[i].known) + len(results[i].token_ids) for i in drawing]
        whole = places == list(range(len(computed.logits)))
        logits = computed.logits if whole else computed.logits[places]
        peaks = computed.peaks
        drawn = sample(
            logits,
            [slot.sampling for slot in slots],
            positions,
            None if peaks is None else [peaks[place] for place in places],
        )
        goes_on = {}
        for (i, place), slot, position, token in zip(drawing.items(), slots, positions, drawn, strict=True):
            before, row = results[i], rows[i]
            if token is None:
                results[i] = RowResult(error=NON_FINITE)
                continue
            slot.known_tokens = max(slot.known_tokens, position + 1)
            if before.error is not None:
                continue
            scores = (*before.scores, _to_plan(token.score)) if token.score else before.scores
            results[i] = RowResult((*before.token_ids, token.token_id), scores, before.prompt_scores)
            draft = position - row.start
            if draft < len(row.token_ids) and row.token_ids[draft] == token.token_id:
                goes_on[i] = place + 1
        return goes_on

    def _score_prompt(self, handle: CpuHandle, index: int) -> RowResult:
        row, first = handle.plan.rows[index], handle.layout.first[index]
        slot = self._slots[row.slot]
        wanted = slot.prompt_ids[row.start + 1 : row.start + 1 + len(row.token_ids)]
        top = slot.sampling.sampling.prompt_logprobs or 0
        scores: list[Score] = []
        for done in range(0, len(wanted), _SCORED_AT_ONCE):
            part = wanted[done : done + _SCORED_AT_ONCE]
            logits = self.model.logits(handle.computed.hidden[first + done : first + done + len(part)])
            if len(finite_rows(logits)) < len(part):
                return RowResult(error=NON_FINITE)
            scores += map(_to_plan, score(logits, part, top))
        return RowResult(prompt_scores=tuple(scores))


def _places_of_logits(rows: Sequence[Row]) -> dict[int, int]:
    """Where in the logits the first of each row that draws is."""
    places, place = {}, 0
    for i, row in enumerate(rows):
        if row.sample:
            places[i] = place
            place += 1 + row.drafts
    return places


def _to_plan(scored: TokenScore) -> Score:
    return Score(scored.token_id, scored.logprob, scored.top)


def _available_bytes() -> int:
    """Memory to be had, less what other executors of this process have been promised."""
    promised = sum(other.geometry.blocks * other.geometry.block_bytes for other in _live)
    return max(0, available_bytes() - promised)


def _check_weights_fit(files: ModelFiles, dtype: str) -> None:
    needed = weight_bytes(files, dtype)
    available = _available_bytes()
    if needed > available:
        raise ModelError(
            f"{files.name} needs {gib(needed)} for its weights in {dtype}, "
            f"but {gib(available)} of memory are available; choose a smaller model or --dtype int8."
        )
