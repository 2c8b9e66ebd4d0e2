"""From token ids to the text a client may see: whole characters, no stop string, no stop token."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from ridgeline.engine.core.messages import Output
from ridgeline.engine.core.plan import Score
from ridgeline.protocol import Delta, FinishReason, Stopping, TokenLogprob, Usage
from ridgeline.text.detokenizer import Detokenizer
from ridgeline.text.tokenizer import Tokenizer


class StopStrings:
    """Looks for stop strings in text that arrives piece by piece.

    | given out ... | held back: could be the beginning of a stop string |
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max((len(s) for s in stops), default=0)
        self._held = ""

    def push(self, text: str) -> tuple[str, str | None]:
        """Text that is safe to give out, and the stop string that ended it, if one did."""
        if not self._stops:
            return text, None
        self._held += text
        found = [(i, s) for s in self._stops if (i := self._held.find(s)) >= 0]
        if found:
            at, stop = min(found)
            safe, self._held = self._held[:at], ""
            return safe, stop
        keep = self._could_begin()
        cut = len(self._held) - keep
        safe, self._held = self._held[:cut], self._held[cut:]
        return safe, None

    def _could_begin(self) -> int:
        """Length of the longest end of the held text that some stop string begins with."""
        for keep in range(min(self._longest - 1, len(self._held)), 0, -1):
            if any(s.startswith(self._held[-keep:]) for s in self._stops):
                return keep
        return 0

    def flush(self) -> str:
        """What was held back, once nothing more comes."""
        held, self._held = self._held, ""
        return held


class Answer:
    """One answer of a request, fed with the engine's outputs."""

    def __init__(
        self,
        index: int,
        prompt: tuple[int, ...],
        stopping: Stopping,
        tokenizer: Tokenizer,
        *,
        echo: bool = False,
        logprobs: bool = False,
    ) -> None:
        self.index = index
        self.finished = False
        self.completion_tokens = 0
        self._prompt = prompt
        self._stopping = stopping
        self._tokenizer = tokenizer
        self._detokenizer = Detokenizer(tokenizer)
        self._stops = StopStrings(stopping.stop)
        self._logprobs = logprobs
        self._cached_tokens = 0
        self._echo = echo
        self._prompt_scores: list[Score] = []

    @property
    def prompt_tokens(self) -> int:
        """Of the request."""
        return len(self._prompt)

    def push(self, outputs: Sequence[Output]) -> Delta | None:
        """The delta for these outputs, in order; None while there is nothing to tell.

        When the delta has `finish` but the last output had not, the engine does not know yet
        that the answer is over: the caller tells it.
        """
        piece = _Piece()
        for output in outputs:
            self._prompt_scores += output.prompt_scores
            self._cached_tokens = output.cached_tokens
            if self._echo and (output.token_ids or output.finish):
                self._echo_prompt(piece)
            for each in _one_by_one(output):
                self._take(each, piece)
                if piece.finish is not None:
                    break
            if piece.finish is not None:
                break
        self.finished = piece.finish is not None
        if not piece.tokens and not piece.text and not self.finished:
            return None
        return Delta(
            self.index,
            piece.text,
            tuple(piece.tokens),
            tuple(piece.logprobs) if self._logprobs else None,
            piece.finish,
            piece.stop_reason,
            self._usage() if self.finished else None,
        )

    def _echo_prompt(self, piece: "_Piece") -> None:
        self._echo = False
        piece.text += self._tokenizer.decode(self._prompt)
        piece.tokens += self._prompt
        if self._logprobs:
            piece.logprobs.append(self._logprob(Score(self._prompt[0], None)))
            piece.logprobs += [self._logprob(score) for score in self._prompt_scores]

    def _take(self, output: Output, piece: "_Piece") -> None:
        # A stop token ends the answer but is no part of it; it was generated, so usage has it.
        visible = output.token_ids[:-1] if output.stop_token_id is not None else output.token_ids
        checked = self.completion_tokens >= self._stopping.min_tokens
        self.completion_tokens += len(output.token_ids)
        piece.tokens += visible
        if self._logprobs:
            piece.logprobs += [self._logprob(score) for score in output.scores[: len(visible)]]
        text = self._detokenizer.push(visible)
        piece.finish = output.finish
        if output.stop_token_id in self._stopping.stop_token_ids:
            piece.stop_reason = output.stop_token_id  # the model's own end needs no reason
        if output.finish is not None:
            text += self._detokenizer.flush()
        if not checked:
            piece.text += text
            return
        safe, stop = self._stops.push(text)
        piece.text += safe
        if stop is not None:
            piece.finish, piece.stop_reason = "stop", stop
        elif output.finish is not None:
            piece.text += self._stops.flush()

    def _usage(self) -> Usage:
        return Usage(len(self._prompt), self.completion_tokens, self._cached_tokens)

    def _logprob(self, score: Score) -> TokenLogprob:
        top = tuple(self._entry(token, logprob) for token, logprob in score.top)
        return replace(self._entry(score.token_id, score.logprob), top=top)

    def _entry(self, token_id: int, logprob: float | None) -> TokenLogprob:
        text_bytes = self._tokenizer.token_bytes(token_id)
        return TokenLogprob(token_id, text_bytes.decode("utf-8", "replace"), text_bytes, logprob)


def _one_by_one(output: Output) -> Iterator[Output]:
    """The same, a token in each: of several drawn in one step, the last may come after the text's end."""
    while len(output.token_ids) > 1:
        ids, scores = output.token_ids, output.scores
        yield replace(output, token_ids=ids[:1], scores=scores[:1], finish=None, stop_token_id=None)
        output = replace(output, token_ids=ids[1:], scores=scores[1:])
    yield output


@dataclass(slots=True)
class _Piece:
    """A delta in the making."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish: FinishReason | None = None
    stop_reason: str | int | None = None
