"""Going on with an answer at another replica than the one that began it."""

from dataclasses import dataclass, field, replace

from ridgeline.protocol import Delta, Message, Request, Usage


@dataclass(slots=True)
class Given:
    """What has been given out of an answer: where another replica has to go on.

    `ids` are the tokens that `text` stands for, where replicas tell them; `before` of them, and as many
    tokens of the prompt as that, were the prompt of the replica that goes on.
    """

    text: str = ""
    ids: list[int] = field(default_factory=list)
    pieces: int = 0
    before: int = 0
    finish: Delta | None = None
    usage: Usage | None = None
    fingerprint: str | None = None

    def add(self, delta: Delta) -> bool:
        """Take a delta in; whether it is to be given out now: ends wait for the usage."""
        self.text += delta.text
        self.ids += delta.token_ids
        self.pieces += bool(delta.text)
        self.fingerprint = delta.fingerprint or self.fingerprint
        if delta.usage is not None:
            self.usage = delta.usage
            return False
        if delta.finish is not None:
            self.finish = delta
            return False
        return True


def can_go_on(request: Request) -> bool:
    """Whether another replica can be asked for the rest: of one answer, in text."""
    return request.n == 1 and not request.echo and request.sampling.logprobs is None


def usage_of(answers: dict[int, Given]) -> Usage:
    """Of the whole request, whoever computed which part."""
    first = answers[0]
    if first.usage is None:
        return Usage(0, sum(each.pieces for each in answers.values()))
    told = first.usage
    return Usage(told.prompt_tokens - first.before, told.completion_tokens + first.before, told.cached_tokens)


def cancelled(request: Request, answers: dict[int, Given]) -> list[Delta]:
    """The end of every answer that has none."""
    usage = Usage(0, sum(each.pieces for each in answers.values()))
    return [
        Delta(index, finish="cancelled", usage=usage)
        for index in range(request.n)
        if index not in answers or answers[index].finish is None
    ]


def continued(request: Request, answer: Given, drawn: int, prompt: tuple[int, ...]) -> Request:
    """Go on behind `drawn` tokens, which `prompt` ends with."""
    stopping, answer.before = request.stopping, drawn
    if stopping.max_tokens is not None:
        stopping = replace(stopping, max_tokens=max(1, stopping.max_tokens - drawn))
    stopping = replace(stopping, min_tokens=max(0, stopping.min_tokens - drawn))
    return replace(request, messages=None, prompt=prompt, continue_final_message=False, stopping=stopping)


def continued_in_text(request: Request, answer: Given) -> Request:
    """Go on behind the text, with about as many tokens left as there should be."""
    said, drawn = answer.text, len(answer.ids) or answer.pieces
    answer.ids, answer.before = [], drawn
    stopping = request.stopping
    if stopping.max_tokens is not None:
        stopping = replace(stopping, max_tokens=max(1, stopping.max_tokens - drawn))
    if request.messages is None:
        return replace(request, prompt=f"{request.prompt}{said}", stopping=stopping)
    messages = request.messages
    if request.continue_final_message:
        messages = (*messages[:-1], Message(messages[-1].role, messages[-1].content + said))
    else:
        messages = (*messages, Message("assistant", said))
    return replace(request, messages=messages, continue_final_message=True, stopping=stopping)
