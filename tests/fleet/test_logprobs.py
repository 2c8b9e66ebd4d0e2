"""Log probabilities come through a front door as a replica wrote them."""

import orjson
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.api import chat, completions
from ridgeline.fleet.logprobs import logprobs_of
from ridgeline.protocol import TokenLogprob

PARTS = st.one_of(st.text(max_size=4).map(str.encode), st.binary(min_size=1, max_size=3))
SCORES = st.floats(min_value=-50, max_value=0)


def token(content: bytes, score: float, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    return TokenLogprob(7, content.decode("utf-8", "replace"), content, score, top)


ALTERNATIVES = st.lists(st.builds(token, PARTS, SCORES), max_size=3).map(tuple)
ANSWERS = st.lists(st.builds(token, PARTS, SCORES, ALTERNATIVES), max_size=4)


@given(ANSWERS)
def test_of_chats(answer: list[TokenLogprob]) -> None:
    written = orjson.loads(orjson.dumps(chat._logprobs(answer)))
    assert chat._logprobs(logprobs_of(written)) == written


@given(ANSWERS)
def test_of_completions(answer: list[TokenLogprob]) -> None:
    written = orjson.loads(orjson.dumps(completions._logprobs(answer, completions._Offsets())))
    again = completions._logprobs(logprobs_of(written), completions._Offsets())
    assert again == written


def test_of_an_echoed_prompt() -> None:
    """Nothing predicts its first token."""
    written = {"tokens": ["a", "b"], "token_logprobs": [None, -1.0], "top_logprobs": [None, {"b": -1.0}]}
    first, second = logprobs_of(written | {"text_offset": [0, 1]})
    assert (first.logprob, first.top) == (None, ())
    assert (second.logprob, second.top[0].text) == (-1.0, "b")


def test_of_an_engine_that_tells_no_bytes() -> None:
    (told,) = logprobs_of({"content": [{"token": "é", "logprob": -0.5}]})
    assert (told.text_bytes, told.top) == ("é".encode(), ())
