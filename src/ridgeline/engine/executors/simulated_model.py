"""A model that is a hash: the next token follows from all tokens before it, at no cost.

Every prefix has a ranking of tokens, derived from its hash, and the same probabilities for it:
1/2 for the first, 1/4 for the second, and so on to `RANKS`. Greedy takes the first; with a
temperature above 0 the rank is drawn by (seed, prefix). So an answer is the same on every replica
and after every preemption, and the log probabilities agree with what is drawn.
"""

import math
from array import array
from collections.abc import Collection, Iterable, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

from ridgeline.engine.core.plan import Score
from ridgeline.protocol import Sampling

if TYPE_CHECKING:
    from ridgeline.text.tokenizer import Tokenizer

RANKS = 20
"""Tokens with a probability; more alternatives than this are never reported."""

UNRANKED_LOGPROB = -20.0
"""Of tokens outside the ranking, which only a prompt can hold."""

_MASK = (1 << 64) - 1
_ROOT = 0x243F6A8885A308D3


def extend_hashes(hashes: "array[int]", tokens: Iterable[int]) -> None:
    """Append, for each token, the hash of everything up to and including it (64 bits)."""
    state = hashes[-1] if hashes else _ROOT
    for token in tokens:
        state = ((state ^ (token + 1)) * 0x9E3779B97F4A7C15) & _MASK
        state ^= state >> 29
        hashes.append(state)


def _mix(value: int) -> int:
    """Finaliser of splitmix64: every bit of the result depends on every bit of the value."""
    value &= _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def _rank(bits: int) -> int:
    """Trailing zeros of a uniform number: rank r with probability 2 ** -(r + 1)."""
    return min((bits & -bits).bit_length() - 1, RANKS - 1) if bits else RANKS - 1


class HashModel:
    """Draws tokens of `allowed_token_ids`, and now and then the end of the text.

    Args:
        vocab_size: ids are below it.
        allowed_token_ids: what answers consist of; None: the whole vocabulary without the end.
        eos_token_id: ends answers; None: they go on to their limit.
        mean_answer_tokens: answers have geometric lengths of this mean, where one may end.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        allowed_token_ids: Sequence[int] | None = None,
        eos_token_id: int | None = None,
        mean_answer_tokens: float = 200.0,
    ) -> None:
        allowed = range(vocab_size) if allowed_token_ids is None else allowed_token_ids
        self._allowed = [token for token in allowed if token != eos_token_id]
        if not self._allowed or not all(0 <= token < vocab_size for token in self._allowed):
            raise ValueError(f"allowed_token_ids must name tokens in [0, {vocab_size})")
        if mean_answer_tokens < 1:
            raise ValueError(f"mean_answer_tokens must be at least 1, it is {mean_answer_tokens}")
        self._eos = eos_token_id
        self._mean_answer_tokens = mean_answer_tokens

    @property
    def fingerprint(self) -> str:
        """Equal for models that give equal answers."""
        facts = repr((self._allowed, self._eos, self._mean_answer_tokens)).encode()
        return "simulated-" + blake2b(facts, digest_size=8).hexdigest()

    def draw(self, prefix: int, sampling: Sampling, banned: Collection[int] = ()) -> tuple[int, Score | None]:
        """The token after a prefix of this hash, with its score where one is asked for.

        Of the sampling settings, temperature (0 or not), seed and logprobs count.
        """
        greedy = sampling.temperature == 0
        rank = 0 if greedy else _rank(_mix(prefix ^ _mix((sampling.seed or 0) + 1)))
        wanted = max(rank + 1, min(sampling.logprobs or 0, RANKS))
        ranking = self._ranking(prefix, greedy, banned, wanted)
        token = ranking[min(rank, len(ranking) - 1)]
        if sampling.logprobs is None:
            return token, None
        return token, _score(ranking, token, sampling.logprobs)

    def score(self, prefix: int, token: int, sampling: Sampling) -> Score:
        """How probable a given token is after a prefix of this hash."""
        ranking = self._ranking(prefix, sampling.temperature == 0, (), RANKS)
        return _score(ranking, token, sampling.prompt_logprobs or 0)

    def _ranking(self, prefix: int, greedy: bool, banned: Collection[int], count: int) -> list[int]:
        ranking: list[int] = []
        if self._eos is not None and self._eos not in banned:
            # Drawn with probability 1/2 when it ranks first, so it has to rank twice as often.
            chance = (1.0 if greedy else 2.0) / self._mean_answer_tokens
            if _mix(prefix + 1) < chance * (_MASK + 1):
                ranking.append(self._eos)
        size = len(self._allowed)
        first = _mix(prefix) % size
        for i in range(size):
            if len(ranking) == count:
                break
            token = self._allowed[(first + i) % size]
            if token not in banned:
                ranking.append(token)
        if not ranking:
            raise ValueError("every token that could be drawn is banned")
        return ranking


def _score(ranking: Sequence[int], token: int, alternatives: int) -> Score:
    top = tuple((other, -math.log(2) * (i + 1)) for i, other in enumerate(ranking[:alternatives]))
    logprob = -math.log(2) * (ranking.index(token) + 1) if token in ranking else UNRANKED_LOGPROB
    return Score(token, logprob, top)


def readable_token_ids(tokenizer: "Tokenizer", vocab_size: int) -> tuple[int, ...]:
    """Tokens below `vocab_size` of which a fake answer can at least be read.

    Those that are a space and a plain word; without such, letters and the space; without even
    these, all that are not special.
    """
    words, letters, ordinary = [], [], []
    for token in range(min(tokenizer.vocab_size, vocab_size)):
        if tokenizer.is_special(token):
            continue
        ordinary.append(token)
        text = tokenizer.token_bytes(token)
        if text == b" " or (len(text) == 1 and text.islower()):
            letters.append(token)
        elif len(text) > 2 and text[:1] == b" " and text[1:].isalpha() and text[1:].islower():
            words.append(token)
    return tuple(words or letters or ordinary)
