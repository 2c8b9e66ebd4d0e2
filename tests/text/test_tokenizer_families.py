"""Tokenizers of folders and GGUF files of each family equal transformers', on small trained ones."""

from pathlib import Path
from typing import Any

import gguf
import pytest
from small_tokenizers import (
    CHATML,
    LLAMA2,
    LLAMA3_SPLIT,
    TEXTS,
    add_bos,
    gguf_metadata,
    train_byte_level,
    train_sentencepiece,
    write_folder,
)
from tokenizers import AddedToken, Tokenizer

from ridgeline.protocol import Message, Refusal
from ridgeline.text.from_folder import tokenizer_from_folder
from ridgeline.text.from_gguf import tokenizer_from_gguf
from ridgeline.text.tokenizer import HuggingFaceTokenizer

QWEN_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PLAIN = [t for t in TEXTS if not any(s in t for s in (*SPECIAL, "<s>", "</s>", "<unk>"))]
CHATS = [
    [("user", "hi")],
    [("system", " be brief "), ("user", "  x  "), ("assistant", " y "), ("user", "z")],
    [("user", ""), ("assistant", ""), ("user", "")],
    *([("system", text), ("user", text), ("assistant", text), ("user", text)] for text in PLAIN),
]


def _assert_equal(ours: HuggingFaceTokenizer, theirs: Any) -> None:
    for text in TEXTS:
        ids = theirs.encode(text, split_special_tokens=True)
        assert ours.encode(text) == ids, repr(text)
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True)
        assert ours.decode(ids) == theirs.decode(ids)
    for chat in CHATS:
        messages = [{"role": role, "content": content} for role, content in chat]
        ids = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert ours.encode_chat([Message(role, content) for role, content in chat]) == ids, chat


def _auto(path: Path, **options: Any) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(path), **options)


@pytest.mark.parametrize("tokenizer_class", ["LlamaTokenizerFast", "PreTrainedTokenizerFast", None])
@pytest.mark.parametrize("model_type", ["llama", "mistral"])
@pytest.mark.parametrize(
    "options",
    [{}, {"legacy": False, "add_bos_token": True, "add_eos_token": False}, {"legacy": True}],
    ids=["plain", "new", "legacy"],
)
def test_sentencepiece_folder(
    tmp_path: Path, tokenizer_class: str | None, model_type: str, options: dict[str, Any]
) -> None:
    tokenizer = train_sentencepiece()
    add_bos(tokenizer, "<s>")
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": LLAMA2}
    settings |= options | ({"tokenizer_class": tokenizer_class} if tokenizer_class else {})
    folder = write_folder(tmp_path, tokenizer, model_type, settings)
    _assert_equal(tokenizer_from_folder(folder), _auto(folder))


@pytest.mark.parametrize(
    ("model_type", "split", "nfc"),
    [("llama", LLAMA3_SPLIT, False), ("qwen2", QWEN_SPLIT, True), ("qwen3", QWEN_SPLIT, True)],
)
def test_byte_level_folder(tmp_path: Path, model_type: str, split: str, nfc: bool) -> None:
    tokenizer = train_byte_level(split, SPECIAL, nfc)
    settings = {"bos_token": None, "eos_token": "<|im_end|>", "chat_template": CHATML}
    if model_type == "llama":
        add_bos(tokenizer, "<|endoftext|>")
        settings |= {"bos_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    else:
        settings |= {"tokenizer_class": "Qwen2Tokenizer", "pad_token": "<|endoftext|>"}
        settings |= {"chat_template": CHATML.replace("{{ bos_token }}", "")}
    thoughts = [AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)]
    folder = write_folder(tmp_path, tokenizer, model_type, settings, thoughts)
    ours = tokenizer_from_folder(folder)
    _assert_equal(ours, _auto(folder))
    thought = ours.encode("<think>a</think>")[len(ours.encode("")) :]
    assert len(thought) == 3
    assert not any(map(ours.is_special, thought))
    assert ours.eos_token_ids == {2}


def _write_gguf(path: Path, architecture: str, metadata: dict[str, Any]) -> Path:
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_head_count_kv(1)
    writer.add_layer_norm_rms_eps(1e-5)
    for key, value in metadata.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        else:
            writer.add_string(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("prefix", [True, False])
def test_sentencepiece_gguf(tmp_path: Path, prefix: bool) -> None:
    metadata = gguf_metadata(train_sentencepiece(), "llama", "default", ["<unk>", "<s>", "</s>"])
    metadata |= {
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": prefix,
        "tokenizer.chat_template": LLAMA2,
    }
    path = _write_gguf(tmp_path / "spm.gguf", "llama", metadata)
    ours = tokenizer_from_gguf(metadata)
    theirs = _auto(tmp_path, gguf_file=path.name)
    if not prefix:
        # transformers reads the flag but does not heed it; the model's own tokenizer does.
        from tokenizers import decoders, pre_tokenizers

        backend = theirs.backend_tokenizer
        backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="never", split=False)
        backend.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        )
    _assert_equal(ours, theirs)
    assert ours.encode("hi")[0] == 1
    assert ours.eos_token_ids == {2}


@pytest.mark.parametrize(
    ("architecture", "pre", "split", "nfc"),
    [
        ("llama", "llama-bpe", LLAMA3_SPLIT, False),
        ("qwen2", "qwen2", QWEN_SPLIT, True),
        ("llama", "gpt-2", None, False),
    ],
)
def test_byte_level_gguf(tmp_path: Path, architecture: str, pre: str, split: str | None, nfc: bool) -> None:
    tokenizer = train_byte_level(split, SPECIAL, nfc)
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    metadata = gguf_metadata(tokenizer, "gpt2", pre, SPECIAL)
    metadata |= {
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.add_bos_token": pre == "llama-bpe",
        "tokenizer.chat_template": CHATML,
    }
    path = _write_gguf(tmp_path / "bpe.gguf", architecture, metadata)
    theirs = _auto(tmp_path, gguf_file=path.name)
    backend = theirs.backend_tokenizer
    if nfc:
        # Qwen's own tokenizer.json composes characters first; transformers' reading of GGUF does not.
        backend.normalizer = tokenizer.normalizer
    if pre == "llama-bpe":
        backend.model.ignore_merges = True  # as Llama 3's own tokenizer.json has it
    ours = tokenizer_from_gguf(metadata)
    _assert_equal(ours, theirs)
    assert len(ours.encode("<think>")) - len(ours.encode("")) == 1


def test_control_tokens_are_never_made_by_merges() -> None:
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": ["<unk>", "</s>", "<", "/", "s", ">", "</", "s>", "▁"],
        "tokenizer.ggml.scores": [0.0, 0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0],
        "tokenizer.ggml.token_type": [2, 3, 1, 1, 1, 1, 1, 1, 1],
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.add_space_prefix": False,
    }
    tokenizer = tokenizer_from_gguf(metadata)
    assert tokenizer.encode("</s>") == [6, 7]


def test_tokens_listed_twice_keep_their_ids() -> None:
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["a", "b", "a", "<|im_end|>", "c"],
        "tokenizer.ggml.token_type": [1, 1, 1, 3, 1],
    }
    tokenizer = tokenizer_from_gguf(metadata | {"tokenizer.chat_template": "<|im_end|>abc"})
    assert tokenizer.vocab_size == 5
    assert tokenizer.encode_chat([Message("user", "")]) == [3, 0, 1, 4]


def test_gaps_in_the_vocabulary_are_told(tmp_path: Path) -> None:
    from tokenizers import decoders, models

    tokenizer = Tokenizer(models.BPE({"ab": 0, "c": 2, "d": 3}, []))
    tokenizer.decoder = decoders.ByteLevel()
    folder = write_folder(tmp_path, tokenizer, "llama", {"eos_token": "ab"})
    with pytest.raises(ValueError, match="ids leave gaps"):
        tokenizer_from_folder(folder)


def test_folder_merges_never_make_control_tokens(tmp_path: Path) -> None:
    from tokenizers import decoders, models

    vocabulary = {"<": 0, "/": 1, "s": 2, ">": 3, "</": 4, "s>": 5, "</s>": 6}
    merges = [("<", "/"), ("s", ">"), ("</", "s>")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.decoder = decoders.ByteLevel()
    folder = write_folder(tmp_path, tokenizer, "llama", {"eos_token": "</s>"})
    ours = tokenizer_from_folder(folder)
    assert ours.encode("</s>") == [4, 5]
    assert ours.eos_token_ids == {6}


def test_unmarked_control_tokens_are_recognised(tmp_path: Path) -> None:
    tokenizer = train_byte_level(None, SPECIAL[:1])
    extra = [AddedToken(s, normalized=False, special=False) for s in SPECIAL[1:]]
    folder = write_folder(tmp_path, tokenizer, "llama", {"chat_template": CHATML}, extra)
    ours = tokenizer_from_folder(folder)
    ids = ours.encode_chat([Message("user", "<|im_end|>")])
    assert sum(map(ours.is_special, ids)) == 3
    assert not any(map(ours.is_special, ours.encode("<|im_end|>")))


def test_template_refusal_is_told(tmp_path: Path) -> None:
    tokenizer = train_byte_level(None, ["<s>", "</s>"])
    settings = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": LLAMA2}
    ours = tokenizer_from_folder(write_folder(tmp_path, tokenizer, "llama", settings))
    with pytest.raises(Refusal, match="Roles must alternate") as refusal:
        ours.encode_chat([Message("assistant", "I begin")])
    assert (refusal.value.code, refusal.value.param) == ("invalid_request", "messages")


def test_no_template_is_refused(tmp_path: Path) -> None:
    ours = tokenizer_from_folder(write_folder(tmp_path, train_byte_level(None, ["<s>"]), "llama", {}))
    assert not ours.has_chat_template
    with pytest.raises(Refusal, match="no chat template"):
        ours.encode_chat([Message("user", "hi")])


def test_end_tokens_come_from_the_generation_settings_too(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, train_byte_level(None, SPECIAL), "llama", {"eos_token": "<|im_end|>"})
    (folder / "generation_config.json").write_text('{"eos_token_id": [0, 2]}')
    assert tokenizer_from_folder(folder).eos_token_ids == {0, 2}


def test_separate_template_file_wins(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, train_byte_level(None, SPECIAL), "llama", {"chat_template": "old"})
    (folder / "chat_template.jinja").write_text("new")
    assert tokenizer_from_folder(folder).encode_chat([Message("user", "x")]) == tokenizer_from_folder(
        folder
    ).encode("new")


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({}, "holds no tokenizer"),
        ({"tokenizer.ggml.model": "t5", "tokenizer.ggml.tokens": ["a"]}, "type 't5'"),
        ({"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["a"]}, "neither scores nor merges"),
        (
            {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "x", "tokenizer.ggml.tokens": ["a"]},
            "pre-tokenizer is 'x'",
        ),
        (
            {
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.tokens": ["a"],
                "tokenizer.ggml.merges": ["a b"],
            },
            "tokenizer is damaged",
        ),
        (
            {
                "tokenizer.ggml.model": "gpt2",
                "tokenizer.ggml.tokens": ["a"],
                "tokenizer.ggml.eos_token_id": 7,
            },
            "tokenizer is damaged",
        ),
    ],
)
def test_gguf_tokenizer_errors(metadata: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        tokenizer_from_gguf(metadata)


@pytest.mark.parametrize(
    ("name", "contents", "reason"),
    [
        ("tokenizer.json", "{", "damaged"),
        ("tokenizer.json", '{"model": {"type": "Unigram"}}', "type 'Unigram'"),
        ("tokenizer.json", "{}", "damaged"),
        ("tokenizer.model", "x", "no tokenizer.json; convert its tokenizer.model"),
    ],
)
def test_folder_tokenizer_errors(tmp_path: Path, name: str, contents: str, reason: str) -> None:
    (tmp_path / name).write_text(contents)
    with pytest.raises(ValueError, match=reason):
        tokenizer_from_folder(tmp_path)
