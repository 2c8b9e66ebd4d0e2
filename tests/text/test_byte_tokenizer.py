"""The tokenizer without files, and that no text whatever becomes a control token."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.protocol import Message, Refusal
from ridgeline.text.byte_tokenizer import MINIMUM_VOCAB, SPECIAL_TOKENS, ByteTokenizer

TOKENIZER = ByteTokenizer(400)
# Control tokens whole and in pieces, beside other text.
FRAGMENTS = st.sampled_from(
    [*SPECIAL_TOKENS, "<|", "|>", "im_", "start", "end", "<", ">", "\n", " ", "a", "é"]
)
MEAN_TEXT = st.lists(FRAGMENTS, max_size=12).map("".join) | st.text(max_size=20)


def test_bytes_are_their_own_ids() -> None:
    assert TOKENIZER.encode("aé") == [97, 0xC3, 0xA9]
    assert TOKENIZER.decode(bytes(range(128))) == bytes(range(128)).decode()
    assert [TOKENIZER.token_bytes(i) for i in (0, 97, 255)] == [b"\0", b"a", b"\xff"]


def test_special_tokens_follow() -> None:
    assert [TOKENIZER.decode([256 + n]) for n in range(3)] == list(SPECIAL_TOKENS)
    assert TOKENIZER.eos_token_ids == {256, 258}
    assert not TOKENIZER.is_special(255)
    assert not TOKENIZER.is_special(MINIMUM_VOCAB)


def test_the_rest_of_the_vocabulary_shows_different_words() -> None:
    assert TOKENIZER.vocab_size == 400
    words = {TOKENIZER.decode([i]) for i in range(MINIMUM_VOCAB, 400)}
    assert len(words) == 400 - MINIMUM_VOCAB
    assert all(word[0] == " " and word[1:].isalpha() for word in words)
    assert TOKENIZER.token_bytes(400) == b""


def test_template() -> None:
    ids = TOKENIZER.encode_chat([Message("system", "s"), Message("user", "u")])
    assert TOKENIZER.decode(ids) == (
        "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n"
    )


def test_too_small_a_vocabulary() -> None:
    with pytest.raises(ValueError, match=f"at least {MINIMUM_VOCAB}, not 258"):
        ByteTokenizer(258)


def test_half_a_character_is_refused() -> None:
    with pytest.raises(Refusal, match="lone surrogate"):
        TOKENIZER.encode("a\ud83d")
    with pytest.raises(Refusal, match="lone surrogate"):
        TOKENIZER.encode_chat([Message("user", "\ude00")])


@given(text=MEAN_TEXT)
def test_text_never_becomes_a_control_token(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert bytes(ids) == text.encode()


@given(contents=st.lists(MEAN_TEXT, min_size=1, max_size=3), role=MEAN_TEXT)
def test_contents_and_roles_never_become_control_tokens(contents: list[str], role: str) -> None:
    ids = TOKENIZER.encode_chat([Message(role, content) for content in contents])
    expected = []
    for content in contents:
        expected += [257, *f"{role}\n{content}".encode(), 258, *b"\n"]
    assert ids == [*expected, 257, *b"assistant\n"]


@given(content=MEAN_TEXT)
def test_continued_contents_never_become_control_tokens(content: str) -> None:
    ids = TOKENIZER.encode_chat([Message("assistant", content)], continue_final_message=True)
    assert ids == [257, *f"assistant\n{content}".encode()]
