"""What a client asks for, after the HTTP surface has checked it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

BEGIN_AT_ONCE = "x-ridgeline-begin-at-once"
"""Header: a front door keeps the line, so a replica answers at once or refuses at once."""

SERVED_MODEL = "x-served-model"
"""Header: the model that answered."""

PRIORITY_INTERACTIVE = 0
PRIORITY_BATCH = 10
PRIORITIES = {"interactive": PRIORITY_INTERACTIVE, "batch": PRIORITY_BATCH}
"""By name, the most urgent first."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `content` is untrusted text and never becomes control tokens."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn from the logits.

    Attributes:
        temperature: 0 means greedy (the most probable token).
        top_p: keep the smallest set of tokens whose probability reaches this, in (0, 1].
        top_k: keep this many tokens; 0 keeps all.
        min_p: drop tokens less probable than this fraction of the most probable one, in [0, 1].
        repetition_penalty: divides positive and multiplies negative logits of tokens that stand
            in prompt or answer; 1 is off.
        presence_penalty: subtracted once from the logit of each token already in the answer.
        frequency_penalty: subtracted per occurrence in the answer.
        logit_bias: added to logits by token id.
        seed: a drawn token depends on (seed, position) only; None lets the replica choose.
        logprobs: None for none, else how many alternatives to report beside the chosen token.
        prompt_logprobs: the same for the tokens of the prompt (needs the whole prompt computed).
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    logprobs: int | None = None
    prompt_logprobs: int | None = None


@dataclass(frozen=True, slots=True)
class Stopping:
    """When an answer ends.

    Attributes:
        max_tokens: at most this many new tokens; None means as many as the context allows.
        min_tokens: no end token, stop token or stop string takes effect before this many.
        stop: strings that end the answer and are cut off it, also across token borders.
        stop_token_ids: tokens that end the answer, beside the model's own end tokens.
        ignore_eos: the model's own end tokens are ordinary tokens.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """One generation request. Exactly one of `messages` and `prompt` is given.

    Attributes:
        id: unique; what cancel and the logs name.
        name: by which its client knows it and may ask what became of it; need not be unique.
        model: name of a served model.
        messages: a conversation, rendered by the replica with the model's chat template.
        prompt: plain text, or token ids, continued as it is.
        n: how many independent answers; answer i draws with `seed + i`.
        echo: the answer starts with the prompt (completions only).
        priority: smaller is served first.
        tenant: the owner whose requests may share cached KV with this one.
        cache_salt: of the tenant's requests only those with the same one share cached KV.
        continue_final_message: the last message is an unfinished answer to be gone on with.
        received_seconds: `time.monotonic()` when the server got the request.
        allow_smaller_model: another model may answer where this one is full.
        begin_at_once: refuse it, as `at_capacity`, rather than let it wait in a line.
        whole: nothing of the answer is looked at before its end.
        told: what the backend says beside the answer, by header; filled before the first delta.
    """

    id: str
    model: str
    messages: tuple[Message, ...] | None = None
    prompt: str | tuple[int, ...] | None = None
    n: int = 1
    sampling: Sampling = field(default_factory=Sampling)
    stopping: Stopping = field(default_factory=Stopping)
    echo: bool = False
    priority: int = PRIORITY_INTERACTIVE
    tenant: str = ""
    cache_salt: str = ""
    continue_final_message: bool = False
    received_seconds: float = 0.0
    name: str = ""
    allow_smaller_model: bool = False
    begin_at_once: bool = False
    whole: bool = False
    told: dict[str, str] = field(default_factory=dict, compare=False, repr=False)
