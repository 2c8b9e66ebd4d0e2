"""Streamed text equals the text of all tokens at once, for every family of decoders."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_tokenizers import TEXTS, train_byte_level, train_sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models

from ridgeline.text.byte_tokenizer import MINIMUM_VOCAB, ByteTokenizer
from ridgeline.text.detokenizer import Detokenizer
from ridgeline.text.tokenizer import HuggingFaceTokenizer, TokenizerSettings


def _wrap(backend: Tokenizer) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer(backend, TokenizerSettings())


def _byte_level() -> HuggingFaceTokenizer:
    backend = train_byte_level(None, ["<|end|>"])
    backend.add_tokens([AddedToken("<｜plain text 漢｜>", normalized=False)])
    return _wrap(backend)


def _sentencepiece(steps: list[decoders.Decoder] | None = None) -> HuggingFaceTokenizer:
    backend = train_sentencepiece()
    if steps is not None:
        backend.decoder = decoders.Sequence(steps)
    return _wrap(backend)


def _metaspace(scheme: str) -> HuggingFaceTokenizer:
    backend = train_sentencepiece()
    backend.decoder = decoders.Metaspace("▁", prepend_scheme=scheme)
    return _wrap(backend)


MAKERS: dict[str, Callable[[], HuggingFaceTokenizer]] = {
    "byte_level": _byte_level,
    "llama2": _sentencepiece,
    "no_strip": lambda: _sentencepiece(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    ),
    "strip_3": lambda: _sentencepiece(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 3, 0)]
    ),
    "metaspace": lambda: _metaspace("always"),
    "metaspace_never": lambda: _metaspace("never"),
    "bytes": lambda: ByteTokenizer(MINIMUM_VOCAB + 40),
}
_MADE: dict[str, HuggingFaceTokenizer] = {}


def _made(name: str) -> HuggingFaceTokenizer:
    if name not in _MADE:
        _MADE[name] = MAKERS[name]()
    return _MADE[name]


def _streamed(tokenizer: HuggingFaceTokenizer, ids: list[int], cuts: random.Random, skip: bool) -> str:
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip)
    pieces = []
    rest = ids
    while rest:
        size = cuts.randint(1, 3)
        pieces.append(detokenizer.push(rest[:size]))
        rest = rest[size:]
    return "".join(pieces) + detokenizer.flush()


@pytest.mark.parametrize("name", MAKERS)
@given(data=st.data())
def test_random_ids(name: str, data: st.DataObject) -> None:
    tokenizer = _made(name)
    # Up to a few beyond the vocabulary: embedding tables are often padded.
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=40))
    skip = data.draw(st.booleans())
    streamed = _streamed(tokenizer, ids, data.draw(st.randoms(use_true_random=False)), skip)
    assert streamed == tokenizer.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("name", ["llama2", "strip_3", "metaspace", "byte_level", "bytes"])
@given(data=st.data())
def test_many_bytes_and_spaces(name: str, data: st.DataObject) -> None:
    """Ids drawn from those where the rules meet: bytes of characters, spaces, control tokens."""
    tokenizer = _made(name)
    tricky = [i for i in range(tokenizer.vocab_size) if len(tokenizer.token_bytes(i).strip(b" ")) <= 1]
    assert len(tricky) > 100
    ids = data.draw(st.lists(st.sampled_from(tricky), max_size=30))
    streamed = _streamed(tokenizer, ids, data.draw(st.randoms(use_true_random=False)), True)
    assert streamed == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize("name", ["byte_level", "llama2", "bytes"])
@given(text=st.text(max_size=60))
def test_any_text_comes_back(name: str, text: str) -> None:
    tokenizer = _made(name)
    ids = tokenizer.encode(text)
    streamed = _streamed(tokenizer, ids, random.Random(len(text)), True)
    assert streamed == tokenizer.decode(ids, skip_special_tokens=True)
    if name != "llama2":  # which may take a leading space for its own
        assert streamed == text


def test_odd_texts_come_back_one_token_at_a_time() -> None:
    tokenizer = _made("byte_level")
    for text in TEXTS:
        detokenizer = Detokenizer(tokenizer)
        assert "".join(detokenizer.push([i]) for i in tokenizer.encode(text)) + detokenizer.flush() == text


def test_half_a_character_waits() -> None:
    tokenizer = ByteTokenizer()
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.push([byte]) for byte in "a€😀".encode()]
    assert pieces == ["a", "", "", "€", "", "", "", "😀"]
    assert detokenizer.flush() == ""


def test_incomplete_character_at_the_end_is_replaced() -> None:
    detokenizer = Detokenizer(ByteTokenizer())
    assert detokenizer.push("€".encode()[:2]) == ""
    assert detokenizer.flush() == "\ufffd"


def test_incomplete_byte_fallback_at_the_end_is_replaced() -> None:
    tokenizer = _made("llama2")
    first = next(i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) == b"\xe2")
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.push([first, first]) == ""
    assert detokenizer.flush() == "\ufffd\ufffd"


def test_special_tokens_are_shown_on_request() -> None:
    tokenizer = ByteTokenizer()
    ids = [*b"a", 258, *b"b"]
    assert Detokenizer(tokenizer).push(ids) == "ab"
    assert Detokenizer(tokenizer, skip_special_tokens=False).push(ids) == "a<|im_end|>b"


@pytest.mark.parametrize(
    "decoder",
    [None, decoders.WordPiece(), decoders.Sequence([decoders.Strip(" ", 1, 0), decoders.Fuse()])],
    ids=["none", "wordpiece", "strip before fuse"],
)
def test_decoders_that_cannot_be_streamed_are_refused(decoder: decoders.Decoder | None) -> None:
    backend = Tokenizer(models.BPE({"a": 0}, []))
    if decoder is not None:
        backend.decoder = decoder
    with pytest.raises(ValueError, match="decoder"):
        _wrap(backend)
