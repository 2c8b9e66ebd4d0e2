"""Plans written by hand: drives an executor without the engine's core."""

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ridgeline.engine.core.plan import Admission, Executor, Row, RowResult, StepPlan
from ridgeline.protocol import Sampling

GREEDY = Sampling(temperature=0.0)


@dataclass
class Running:
    """One sequence: what is known, what is computed, which blocks it holds."""

    token_ids: list[int]
    prompt_tokens: int
    computed: int
    blocks: list[int]
    new_blocks: list[int] = field(default_factory=list)
    score_prompt: bool = False


class StepDriver:
    """Hands out slots and blocks; each `step` computes what it is told."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.free_blocks = deque(range(executor.geometry.blocks))
        self.free_slots = deque(range(executor.geometry.max_batch))
        self.sequences: dict[int, Running] = {}
        self.admissions: list[Admission] = []
        self.releases: list[int] = []
        self.steps = 0

    def admit(
        self,
        token_ids: Sequence[int],
        sampling: Sampling = GREEDY,
        *,
        prompt_tokens: int | None = None,
        shared_blocks: Sequence[int] = (),
        banned_token_ids: tuple[int, ...] = (),
        min_tokens: int = 0,
    ) -> int:
        """Take a slot; positions of `shared_blocks` count as computed."""
        slot = self.free_slots.popleft()
        prompt = len(token_ids) if prompt_tokens is None else prompt_tokens
        computed = len(shared_blocks) * self.executor.geometry.block_size_tokens
        blocks = list(shared_blocks)
        self.sequences[slot] = Running(
            list(token_ids),
            prompt,
            computed,
            blocks,
            list(blocks),
            score_prompt=sampling.prompt_logprobs is not None,
        )
        self.admissions.append(
            Admission(slot, tuple(token_ids), prompt, sampling, banned_token_ids, min_tokens)
        )
        return slot

    def release(self, slot: int, *, keep_blocks: bool = False) -> None:
        """Give the slot back, and its blocks unless they are to be shared."""
        sequence = self.sequences.pop(slot)
        if not keep_blocks:
            self.free_blocks.extend(sequence.blocks)
        self.releases.append(slot)
        self.free_slots.append(slot)

    def row(self, slot: int, tokens: int, drafts: tuple[int, ...] = ()) -> Row:
        """The next `tokens` of a sequence, and drafts; samples where that is all there is."""
        sequence = self.sequences[slot]
        end = sequence.computed + tokens
        size = self.executor.geometry.block_size_tokens
        while len(sequence.blocks) * size < end + len(drafts):
            sequence.blocks.append(self.free_blocks.popleft())
            sequence.new_blocks.append(sequence.blocks[-1])
        fresh, sequence.new_blocks = sequence.new_blocks, []
        return Row(
            slot,
            sequence.computed,
            tuple(sequence.token_ids[sequence.computed : end]) + drafts,
            tuple(fresh),
            sample=end == len(sequence.token_ids),
            score_prompt=sequence.score_prompt and sequence.computed < sequence.prompt_tokens,
            drafts=len(drafts),
        )

    def step(
        self, parts: Mapping[int, int], drafts: Mapping[int, tuple[int, ...]] | None = None
    ) -> dict[int, RowResult]:
        """Compute so many tokens of each slot, and drafts; drawn tokens are appended."""
        drafts = drafts or {}
        rows = tuple(self.row(slot, tokens, drafts.get(slot, ())) for slot, tokens in parts.items())
        plan = StepPlan(self.steps, rows, tuple(self.admissions), tuple(self.releases))
        self.admissions, self.releases = [], []
        self.steps += 1
        result = self.executor.collect(self.executor.launch(plan))
        for (slot, tokens), row in zip(parts.items(), result.rows, strict=True):
            self.sequences[slot].computed += tokens + max(0, len(row.token_ids) - 1)
            self.sequences[slot].token_ids += row.token_ids
        return dict(zip(parts, result.rows, strict=True))

    def pending(self, slot: int) -> int:
        """Tokens of the sequence that are known but not computed."""
        sequence = self.sequences[slot]
        return len(sequence.token_ids) - sequence.computed

    def answer(self, slot: int) -> list[int]:
        """What has been drawn so far."""
        sequence = self.sequences[slot]
        return sequence.token_ids[sequence.prompt_tokens :]

    def generate(self, slots: Sequence[int], new_tokens: int) -> list[list[int]]:
        """All slots together, prompts whole, until each has drawn so many tokens."""
        while any(len(self.answer(slot)) < new_tokens for slot in slots):
            active = [slot for slot in slots if len(self.answer(slot)) < new_tokens]
            self.step({slot: self.pending(slot) for slot in active})
        return [self.answer(slot) for slot in slots]
