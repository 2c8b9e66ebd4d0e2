"""Changes to a sequence's logits before a token is drawn: bias, bans, penalties."""

from collections.abc import Sequence

import numpy as np
import torch

from ridgeline.protocol import Sampling

_LARGEST = 1e30
"""Of a penalised logit; still finite when divided by the smallest temperature that draws."""


class TokenCounts:
    """The distinct tokens of a sequence, and how often each stands in the answer."""

    def __init__(self, prompt: Sequence[int], answer: Sequence[int]) -> None:
        distinct = np.unique(np.asarray(prompt, dtype=np.int64))
        self._size = len(distinct)
        self._ids = np.concatenate((distinct, np.zeros(64, dtype=np.int64)))
        self._counts = np.zeros(len(self._ids), dtype=np.float32)
        self._index = {int(token): i for i, token in enumerate(distinct)}
        for token in answer:
            self.add(token)

    def add(self, token_id: int) -> None:
        """Count one more token of the answer."""
        index = self._index.get(token_id)
        if index is None:
            index = self._index[token_id] = self._size
            if index == len(self._ids):
                self._ids = np.resize(self._ids, 2 * index)
                self._counts = np.concatenate((self._counts, np.zeros(index, dtype=np.float32)))
            self._ids[index] = token_id
            self._size += 1
        self._counts[index] += 1

    @property
    def ids(self) -> torch.Tensor:
        """[distinct], int64."""
        return torch.from_numpy(self._ids[: self._size])

    @property
    def counts(self) -> torch.Tensor:
        """[distinct], float32: occurrences in the answer; 0 for tokens of the prompt only."""
        return torch.from_numpy(self._counts[: self._size])


class SamplingState:
    """How one sequence draws, and what it has drawn so far.

    Args:
        sampling: with `seed` set unless greedy.
        prompt: token ids of the prompt.
        answer: token ids generated already (after a preemption).
        banned_token_ids: not drawn before `min_tokens` are generated.
        min_tokens: see above.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int],
        answer: Sequence[int] = (),
        banned_token_ids: Sequence[int] = (),
        min_tokens: int = 0,
    ) -> None:
        self.sampling = sampling
        self.seed = sampling.seed or 0
        self._generated = len(answer)
        self._min_tokens = min_tokens
        self._banned = torch.tensor(banned_token_ids, dtype=torch.int64)
        self._bias_ids = torch.tensor(list(sampling.logit_bias), dtype=torch.int64)
        self._bias = torch.tensor(list(sampling.logit_bias.values()), dtype=torch.float32)
        penalised = (
            sampling.repetition_penalty != 1.0
            or sampling.presence_penalty != 0.0
            or sampling.frequency_penalty != 0.0
        )
        self._counts = TokenCounts(prompt, answer) if penalised else None

    def record(self, token_id: int) -> None:
        """Take note of a token added to the answer."""
        self._generated += 1
        if self._counts is not None:
            self._counts.add(token_id)

    @property
    def adjusts(self) -> bool:
        """Whether `adjust` would change anything now."""
        return self._bans or self._counts is not None or len(self._bias) > 0

    @property
    def _bans(self) -> bool:
        return self._generated < self._min_tokens and len(self._banned) > 0

    def adjust(self, row: torch.Tensor) -> None:
        """Change a row of logits [vocab] in place: bias, then penalties, then bans."""
        if len(self._bias):
            row.index_add_(0, self._bias_ids, self._bias)
        if self._counts is not None:
            self._penalise(row, self._counts)
        if self._bans:
            row[self._banned] = float("-inf")

    def _penalise(self, row: torch.Tensor, counted: TokenCounts) -> None:
        ids, counts = counted.ids, counted.counts
        values = row[ids]
        repetition = self.sampling.repetition_penalty
        values = torch.where(values > 0, values / repetition, values * repetition)
        # A tiny divisor makes infinity of a logit, of which no probability can be made.
        values.clamp_(-_LARGEST, _LARGEST)
        values -= self.sampling.frequency_penalty * counts
        values -= self.sampling.presence_penalty * (counts > 0)
        row[ids] = values
