"""Named workloads: how long and how many messages are, and how long people think.

Where the figures come from:

- **chat**. Turns: geometric with mean 3.5, as in ShareGPT (3.5; WildChat has 2.5, ShareChat 4.6).
  Think time: log-normal with median 100 s and sigma 1.07. In Mooncake's trace of a chat service the
  gap between a request and its follow-up has quantiles 10, 50, 75, 90 % of 42, 123, 264, 483 s
  (log-normal, mu 4.81, sigma 1.07), and that holds the answer, so ln of the pause is near 4.6. Many
  tools wait 0.5 to 5 s, which flatters every cache. Answers: mean 300 tokens (ShareGPT 348, Mooncake
  343, LMSYS-Chat-1M 215, Azure 2023 211), log-normal, since Azure's have mean 211 and median 129.
  Later questions: mean 94 tokens (ShareGPT). Our assumptions, measured nowhere: the spread of
  questions, the length of the first one (median 90), that one in ten pastes a document of 2,000 to
  8,000 tokens, and a system prompt of 512 tokens that all share.
- **summarise**. The quantiles of prompts and answers of 28,257 arXiv papers and their summaries, as
  Vidur cut them to 4,096 tokens (MIT licence). Prompt and answer are drawn apart from each other.
- **write**. 250 tokens in, 1,000 out, log-normal; an assumption, the mirror image of summarising:
  nearly all time is decoding. (In life two thirds of requests for writing are to edit a given text,
  NBER w34255, which is nearer to summarise.)

Tokens are those of the server's tokenizer as far as `wording.py` can tell.
"""

from dataclasses import dataclass, replace

from ridgeline.bench.distributions import Distribution, Fixed, Geometric, LogNormal, Mixed, Quantiles


@dataclass(frozen=True, slots=True)
class Profile:
    """What conversations are drawn from. Lengths in tokens, pauses in seconds.

    Attributes:
        name: of the workload.
        turns: questions in a conversation.
        system_tokens: of the system prompt that all share; 0 for none.
        first_tokens: of the first question.
        later_tokens: of each further one.
        answer_tokens: the limit of each answer.
        think_seconds: from the end of an answer to the next question, before any acceleration.
    """

    name: str
    turns: Distribution
    system_tokens: int
    first_tokens: Distribution
    later_tokens: Distribution
    answer_tokens: Distribution
    think_seconds: Distribution

    def describe(self) -> dict[str, object]:
        """For the report: what each figure is drawn from."""
        drawn = ("turns", "first_tokens", "later_tokens", "answer_tokens", "think_seconds")
        described = {name: getattr(self, name).describe() for name in drawn}
        return {"name": self.name, "system_tokens": self.system_tokens, **described}


_ARXIV_PROMPTS = Quantiles(
    (
        (0.0, 100), (0.05, 748), (0.1, 1242), (0.2, 1802), (0.3, 2150), (0.4, 2453), (0.5, 2730),
        (0.6, 2996), (0.7, 3249), (0.8, 3490), (0.9, 3702), (0.95, 3813), (1.0, 4054),
    )
)  # fmt: skip
_ARXIV_SUMMARIES = Quantiles(
    (
        (0.0, 5), (0.05, 60), (0.1, 78), (0.2, 104), (0.3, 125), (0.4, 145), (0.5, 167), (0.6, 192),
        (0.7, 222), (0.8, 268), (0.9, 372), (0.95, 736), (0.99, 3271), (1.0, 4056),
    )
)  # fmt: skip

WORKLOADS = {
    profile.name: profile
    for profile in (
        Profile(
            "chat",
            turns=Geometric(mean=3.5, high=40),
            system_tokens=512,
            first_tokens=Mixed(
                LogNormal(90, 1.2, low=4, high=2000), LogNormal(4000, 0.35, low=2000, high=8000), share=0.1
            ),
            later_tokens=LogNormal(57, 1.0, low=2, high=2000),
            answer_tokens=LogNormal(218, 0.8, low=1, high=2048),
            think_seconds=LogNormal(100, 1.07, low=2, high=1800),
        ),
        Profile("summarise", Fixed(1), 0, _ARXIV_PROMPTS, Fixed(1), _ARXIV_SUMMARIES, Fixed(0)),
        Profile(
            "write",
            turns=Fixed(1),
            system_tokens=0,
            first_tokens=LogNormal(209, 0.6, low=10, high=2000),
            later_tokens=Fixed(1),
            answer_tokens=LogNormal(883, 0.5, low=50, high=4096),
            think_seconds=Fixed(0),
        ),
    )
}


def overridden(
    profile: Profile,
    *,
    turns: int | None = None,
    system_tokens: int | None = None,
    input_tokens: int | None = None,
    output_tokens: int | None = None,
    think_seconds: float | None = None,
) -> Profile:
    """The profile with single figures fixed; None leaves what the profile draws."""
    changes: dict[str, object] = {}
    if system_tokens is not None:
        changes["system_tokens"] = system_tokens
    if input_tokens is not None:
        changes |= {"first_tokens": Fixed(input_tokens), "later_tokens": Fixed(input_tokens)}
    for name, value in (("turns", turns), ("answer_tokens", output_tokens), ("think_seconds", think_seconds)):
        if value is not None:
            changes[name] = Fixed(value)
    return replace(profile, **changes)  # type: ignore[arg-type]
