"""What a client sees of tokens: whole characters, no stop string, usage at the end."""

from hypothesis import given
from hypothesis import strategies as st

from ridgeline.engine.answer import Answer, StopStrings
from ridgeline.engine.core.messages import Output
from ridgeline.engine.core.plan import Score
from ridgeline.protocol import Stopping
from ridgeline.text.byte_tokenizer import ByteTokenizer

TOKENIZER = ByteTokenizer(512)
EOS = min(TOKENIZER.eos_token_ids)

pieces = st.lists(st.text("ab\u00e9", max_size=4), max_size=12)
stops = st.lists(st.text("ab\u00e9", min_size=1, max_size=5), max_size=3)


def ids(text: str) -> tuple[int, ...]:
    return tuple(TOKENIZER.encode(text))


def feed(stopping: Stopping, tokens: tuple[int, ...], last: Output) -> list:
    answer = Answer(0, ids("p"), stopping, TOKENIZER)
    deltas = []
    for token in tokens:
        deltas.append(answer.push([Output("s", (token,))]))
        if answer.finished:
            break
    if not answer.finished:
        deltas.append(answer.push([last]))
    return [d for d in deltas if d is not None]


@given(pieces, stops)
def test_stop_strings_cut_where_the_whole_text_would_be_cut(parts, strings) -> None:
    checker = StopStrings(strings)
    given_out, ended = "", None
    for part in parts:
        safe, ended = checker.push(part)
        given_out += safe
        if ended is not None:
            break
    else:
        given_out += checker.flush()
    whole = "".join(parts)
    ends = [(whole.find(s) + len(s), whole.find(s)) for s in strings if s in whole]
    if not ends:
        assert (given_out, ended) == (whole, None)
        return
    # Text after the piece in which the first stop string is complete is never looked at.
    assert ended in strings
    assert whole.startswith(given_out + str(ended))
    assert not any(s in given_out for s in strings)


@given(st.text(max_size=20), st.integers(1, 5))
def test_the_deltas_together_are_the_text_however_they_are_cut(text, size) -> None:
    tokens = ids(text)
    answer = Answer(0, ids("p"), Stopping(), TOKENIZER)
    deltas = [
        answer.push([Output("s", (t,)) for t in tokens[i : i + size]]) for i in range(0, len(tokens), size)
    ]
    deltas.append(answer.push([Output("s", finish="length")]))
    assert "".join(d.text for d in deltas if d) == text
    assert sum(d.finish is not None for d in deltas if d) == 1


def test_never_half_a_character() -> None:
    deltas = feed(Stopping(), ids("a\u00e9\U0001f600b"), Output("s", finish="length"))
    assert [d.text for d in deltas if d.text] == ["a", "\u00e9", "\U0001f600", "b"]


def test_the_stop_token_is_counted_but_not_shown() -> None:
    answer = Answer(0, ids("p"), Stopping(), TOKENIZER)
    delta = answer.push([Output("s", (*ids("hi"), EOS), finish="stop", stop_token_id=EOS)])
    assert delta is not None
    assert (delta.text, delta.token_ids, delta.finish, delta.stop_reason) == ("hi", ids("hi"), "stop", None)
    assert delta.usage is not None
    assert delta.usage.completion_tokens == 3


def test_min_tokens_lets_a_stop_string_pass() -> None:
    stopping = Stopping(stop=("b",), min_tokens=3)
    deltas = feed(stopping, ids("abcabc"), Output("s", finish="length"))
    assert "".join(d.text for d in deltas) == "abca"
    assert deltas[-1].finish == "stop"


@given(st.text("ab", max_size=12), st.lists(st.text("ab", min_size=1, max_size=3), max_size=2), st.data())
def test_tokens_that_come_together_are_taken_one_by_one(text, strings, data) -> None:
    """However many tokens a step draws, text, tokens and usage end in the same place."""
    stopping = Stopping(stop=tuple(strings), min_tokens=data.draw(st.integers(0, 5)))
    alone = Answer(0, ids("p"), stopping, TOKENIZER, logprobs=True)
    together = Answer(0, ids("p"), stopping, TOKENIZER, logprobs=True)
    tokens = (*ids(text), EOS)
    scores = tuple(Score(token, -1.0) for token in tokens)
    told = []
    for answer in (alone, together):
        at, deltas = 0, []
        while at < len(tokens) and not answer.finished:
            size = 1 if answer is alone else data.draw(st.integers(1, 4))
            size = min(size, len(tokens) - at)
            is_last = at + size == len(tokens)
            output = Output(
                "s",
                tokens[at : at + size],
                scores[at : at + size],
                finish="stop" if is_last else None,
                stop_token_id=EOS if is_last else None,
            )
            deltas.append(answer.push([output]))
            at += size
        deltas = [delta for delta in deltas if delta is not None]
        told.append(
            (
                "".join(delta.text for delta in deltas),
                [token for delta in deltas for token in delta.token_ids],
                sum(len(delta.logprobs) for delta in deltas),
                deltas[-1].finish,
                deltas[-1].stop_reason,
                deltas[-1].usage,
            )
        )
    assert told[0] == told[1]


def test_what_could_have_been_a_stop_string_comes_out_at_the_end() -> None:
    deltas = feed(Stopping(stop=("abc",)), ids("xab"), Output("s", finish="length"))
    assert [d.text for d in deltas if d.text] == ["x", "ab"]
    assert deltas[-1].finish == "length"


def test_a_stop_token_of_the_request_is_the_reason() -> None:
    answer = Answer(0, ids("p"), Stopping(stop_token_ids=(ids("x")[0],)), TOKENIZER)
    delta = answer.push([Output("s", ids("hix"), finish="stop", stop_token_id=ids("x")[0])])
    assert delta is not None
    assert (delta.text, delta.finish, delta.stop_reason) == ("hi", "stop", ids("x")[0])
