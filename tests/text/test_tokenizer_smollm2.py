"""The default model's tokenizer and template against transformers' on stored odd texts."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from ridgeline.models.files import open_model
from ridgeline.protocol import Message
from ridgeline.text.tokenizer import Tokenizer

REFERENCE = Path(__file__).parent.parent / "models" / "reference"
IM_START, IM_END = 1, 2
CONTROL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<repo_name>", "<file_sep>")


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((REFERENCE / "tokenizer_reference.json").read_text())
    return found


@pytest.fixture(scope="module")
def tokenizer(smollm2_path: Path) -> Tokenizer:
    return open_model(str(smollm2_path)).tokenizer


def _messages(turns: list[tuple[str, str]]) -> list[Message]:
    return [Message(role, content) for role, content in turns]


def test_texts_are_tokenised_as_by_transformers(tokenizer: Tokenizer, reference: dict[str, Any]) -> None:
    assert len(reference["texts"]) > 50
    for entry in reference["texts"]:
        assert tokenizer.encode(entry["text"]) == entry["ids"], repr(entry["text"])


def test_conversations_are_rendered_and_tokenised_as_by_transformers(
    tokenizer: Tokenizer, reference: dict[str, Any]
) -> None:
    assert len(reference["chats"]) > 50
    for entry in reference["chats"]:
        ids = tokenizer.encode_chat(_messages(entry["messages"]), continue_final_message=entry["continued"])
        assert ids == entry["ids"], entry["messages"]


def test_template_adds_its_default_system_prompt(tokenizer: Tokenizer) -> None:
    text = tokenizer.decode(tokenizer.encode_chat([Message("user", "Hi")]))
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("literal", CONTROL)
def test_typed_control_tokens_stay_text(tokenizer: Tokenizer, literal: str) -> None:
    text = f"a{literal}b {literal}{literal}\n{literal}"
    ids = tokenizer.encode(text)
    assert not any(map(tokenizer.is_special, ids))
    assert tokenizer.decode(ids) == text


def test_typed_control_tokens_stay_text_in_every_part_of_a_conversation(
    tokenizer: Tokenizer, reference: dict[str, Any]
) -> None:
    odd = [e["text"] for e in reference["texts"] if any(c in e["text"] for c in CONTROL)]
    assert odd
    for text in odd:
        ids = tokenizer.encode_chat(_messages([("system", text), ("user", text), ("assistant", text)]))
        turn = [
            [IM_START, *tokenizer.encode(f"{role}\n{text}"), IM_END, *tokenizer.encode("\n")]
            for role in ("system", "user", "assistant")
        ]
        assert ids == [*turn[0], *turn[1], *turn[2], IM_START, *tokenizer.encode("assistant\n")], text


def test_typed_control_tokens_stay_text_in_roles(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_chat([Message("system", "x"), Message("a<|im_end|>b", "y")])
    assert [i for i in ids if tokenizer.is_special(i)] == [IM_START, IM_END] * 2 + [IM_START]


def test_continued_message_may_hold_control_tokens(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_chat(
        [Message("system", "s"), Message("assistant", "go <|im_end|>")], continue_final_message=True
    )
    assert tokenizer.decode(ids).endswith("<|im_start|>assistant\ngo <|im_end|>")
    assert not tokenizer.is_special(ids[-1])


def test_ends_and_sizes(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size == 49152
    assert IM_END in tokenizer.eos_token_ids
    assert tokenizer.has_chat_template
    assert tokenizer.token_bytes(IM_START) == b"<|im_start|>"


def _make_reference() -> Any:
    path = REFERENCE / "make_tokenizer_reference.py"
    spec = importlib.util.spec_from_file_location("make_tokenizer_reference", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_stored_reference_is_what_transformers_gives(reference: dict[str, Any]) -> None:
    made = _make_reference().make()
    assert json.loads(json.dumps(made)) == reference


@pytest.mark.slow
def test_unmodified_transformers_differs_only_at_number_signs(
    tokenizer: Tokenizer, reference: dict[str, Any], smollm2_path: Path
) -> None:
    """Holds the one deviation from transformers' reading of the GGUF file to where it belongs."""
    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(str(smollm2_path.parent), gguf_file=smollm2_path.name)
    differing = [
        entry["text"]
        for entry in reference["texts"]
        if theirs.encode(entry["text"], split_special_tokens=True) != entry["ids"]
    ]
    assert all(any(c.isnumeric() for c in text) for text in differing)
    assert len(differing) < 5
