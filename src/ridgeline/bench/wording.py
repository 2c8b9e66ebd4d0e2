"""Text of about so many tokens, for a server whose tokenizer is not known.

The words are short and common, so that most tokenizers take about one token for each. Where lengths
matter, two requests tell what this server really takes: the difference between them is the tokens of
a word, the rest is what its chat template adds.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass

import aiohttp

from ridgeline.bench.client import ServerError, TokenCounts, stream_chat

_WORDS = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work number night "
    "point home water room mother area money story fact month lot right study book eye job word "
    "business issue side kind head house service friend father power hour game line end member law "
    "car city community name president team minute idea kid body information back parent face "
    "others level office door health person art war history party result change morning reason "
    "research girl guy moment air teacher force education foot boy age policy music market sense"
).split()

_PROBE_WORDS = (50, 250)


def words(draw: random.Random, count: int) -> list[str]:
    """So many words, drawn evenly."""
    return draw.choices(_WORDS, k=count)


@dataclass(frozen=True, slots=True)
class Wording:
    """How many tokens text takes at a server.

    Attributes:
        tokens_per_word: mean over the words that prompts are made of.
        overhead_tokens: what the chat template adds to a prompt of one message.
    """

    tokens_per_word: float = 1.0
    overhead_tokens: float = 0.0

    def words_for(self, tokens: float, *, whole_prompt: bool = False) -> int:
        """Words that take about so many tokens, at least one.

        With `whole_prompt` the tokens are the prompt's, template included.
        """
        room = tokens - self.overhead_tokens if whole_prompt else tokens
        return max(1, round(room / self.tokens_per_word))


WORD_IS_A_TOKEN = Wording()


async def _prompt_tokens(
    session: aiohttp.ClientSession, url: str, body: Mapping[str, object], count: int
) -> int | None:
    text = " ".join(words(random.Random(f"probe/{count}"), count))
    asked = {**body, "messages": [{"role": "user", "content": text}], "max_tokens": 1}
    usage: TokenCounts | None = None
    async for chunk in stream_chat(session, url, asked):
        usage = chunk.usage or usage
    return usage.prompt if usage else None


async def probe(session: aiohttp.ClientSession, url: str, body: Mapping[str, object]) -> Wording | None:
    """Ask the server twice what text of known length takes; None where it does not tell.

    `body` holds the fields of a request beside messages and max_tokens.
    """
    few, many = _PROBE_WORDS
    try:
        low = await _prompt_tokens(session, url, body, few)
        high = await _prompt_tokens(session, url, body, many)
    except ServerError:
        return None
    if low is None or high is None or high <= low:
        return None
    per_word = (high - low) / (many - few)
    return Wording(per_word, max(0.0, low - few * per_word))
