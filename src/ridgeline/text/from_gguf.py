"""Building a tokenizer from the metadata of a GGUF file.

GGUF keeps vocabulary, merges and the name of the pre-tokenizer; normalisers, regular expressions
and decoders follow from that name. They are those of the models' own `tokenizer.json` files.
"""

from collections.abc import Mapping
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from ridgeline.text.tokenizer import HuggingFaceTokenizer, TokenizerSettings

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_TEXT = (_NORMAL, _USER_DEFINED)
_END_NAMES = ("<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<|endoftext|>", "<|eom_id|>", "</s>")

_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _WORDS + r"\p{N}{1,3}" + _REST
_QWEN2 = _WORDS + r"\p{N}" + _REST
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
    "tekken": _TEKKEN,
}
_NFC = ("qwen2", "deepseek-r1-qwen")
_WHOLE_WORDS_FIRST = ("llama-bpe", "llama3", "llama-v3", "tekken")
_DIGITS_APART = ("smollm", "starcoder", "refact")
_GPT2 = ("default", "gpt-2", "")


def tokenizer_from_gguf(metadata: Mapping[str, Any]) -> HuggingFaceTokenizer:
    """The tokenizer that a GGUF file's metadata describe.

    Raises:
        ValueError: when there is none, or it is of a kind that is not supported.
    """
    kind = metadata.get("tokenizer.ggml.model")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not kind or not tokens:
        raise ValueError("it holds no tokenizer")
    if kind not in ("gpt2", "llama"):
        raise ValueError(f"its tokenizer is of type {kind!r}; supported are 'gpt2' and 'llama'")
    try:
        backend = (_byte_level if kind == "gpt2" else _sentencepiece)(metadata, tokens)
        _add_tokens(backend, metadata, tokens)
        _add_post_processor(backend, metadata, tokens)
        settings = _settings(metadata, tokens)
    except ValueError:
        raise
    except Exception as error:  # the tokenizers library raises nothing more specific
        raise ValueError(f"its tokenizer is damaged ({error})") from error
    return HuggingFaceTokenizer(backend, settings)


def _byte_level(metadata: Mapping[str, Any], tokens: list[str]) -> Tokenizer:
    name = metadata.get("tokenizer.ggml.pre", "")
    merges = _listed_merges(metadata, tokens)
    vocabulary = _vocabulary(tokens)
    backend = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=name in _WHOLE_WORDS_FIRST))
    if name in _NFC:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = _byte_level_pre_tokenizer(name)
    backend.decoder = decoders.ByteLevel()
    return backend


def _byte_level_pre_tokenizer(name: str) -> pre_tokenizers.PreTokenizer:
    if name in _SPLITS:
        return pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_SPLITS[name]), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if name in _DIGITS_APART:
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2])
    if name in _GPT2:
        return gpt2
    known = ", ".join(sorted({*_SPLITS, *_DIGITS_APART, *_GPT2} - {""}))
    raise ValueError(f"its pre-tokenizer is {name!r}; supported are {known}")


def _sentencepiece(metadata: Mapping[str, Any], tokens: list[str]) -> Tokenizer:
    vocabulary = _vocabulary(tokens)
    scores = metadata.get("tokenizer.ggml.scores")
    merges = _listed_merges(metadata, tokens)
    if not merges and scores:
        scored = {
            t: s for t, s, kind in zip(tokens, scores, _types(metadata, tokens), strict=True) if kind in _TEXT
        }
        merges = _merges_from_scores(vocabulary, scored)
    if not merges:
        raise ValueError("its tokenizer of type 'llama' has neither scores nor merges")
    unknown = tokens[metadata.get("tokenizer.ggml.unknown_token_id", 0)]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    backend.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement="\u2581", prepend_scheme="first" if prefix else "never", split=False
    )
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if prefix else []))
    return backend


def _vocabulary(tokens: list[str]) -> dict[str, int]:
    """Token to id; of tokens listed twice the first is the one that text becomes."""
    vocabulary: dict[str, int] = {}
    for index, token in enumerate(tokens):
        vocabulary[f"{token}\ue000{index}" if token in vocabulary else token] = index
    return vocabulary


def _types(metadata: Mapping[str, Any], tokens: list[str]) -> list[int]:
    return list(metadata.get("tokenizer.ggml.token_type") or [_NORMAL] * len(tokens))


def _listed_merges(metadata: Mapping[str, Any], tokens: list[str]) -> list[tuple[str, str]]:
    """Merges of the file, without any that would make a control token out of text."""
    control = {t for t, kind in zip(tokens, _types(metadata, tokens), strict=True) if kind not in _TEXT}
    pairs = (merge.split(" ", 1) for merge in metadata.get("tokenizer.ggml.merges") or ())
    return [(left, right) for left, right in pairs if left + right not in control]


def _merges_from_scores(vocabulary: Mapping[str, int], scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """Every way to make a token out of two others, best score first.

    Sentencepiece keeps no list of merges: at each point it joins the neighbours whose union scores
    highest, which is what these merges in this order do.
    """
    merges = []
    for token, score in scores.items():
        ways = [
            (token[:cut], token[cut:])
            for cut in range(1, len(token))
            if token[:cut] in vocabulary and token[cut:] in vocabulary
        ]
        ways.sort(key=lambda way: (vocabulary[way[0]], vocabulary[way[1]]))
        merges += [(score, left, right) for left, right in ways]
    merges.sort(key=lambda m: (m[0], len(m[1]), len(m[2])), reverse=True)
    return [(left, right) for _, left, right in merges]


def _add_tokens(backend: Tokenizer, metadata: Mapping[str, Any], tokens: list[str]) -> None:
    types = _types(metadata, tokens)
    byte_level = metadata["tokenizer.ggml.model"] == "gpt2"
    special_types = (_CONTROL,) if byte_level else (_CONTROL, _UNKNOWN)
    named = set(_named_ids(metadata).values())
    special = [
        AddedToken(token, normalized=False, special=True)
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind in special_types or index in named
    ]
    ordinary = [
        AddedToken(token, normalized=False, special=False)
        for index, (token, kind) in enumerate(zip(tokens, types, strict=True))
        if kind == _USER_DEFINED and index not in named
    ]
    backend.add_special_tokens(special)
    backend.add_tokens(ordinary)


def _named_ids(metadata: Mapping[str, Any]) -> dict[str, int]:
    keys = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    found = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in keys.items()}
    return {name: index for name, index in found.items() if index is not None}


def _add_post_processor(backend: Tokenizer, metadata: Mapping[str, Any], tokens: list[str]) -> None:
    sentencepiece = metadata["tokenizer.ggml.model"] == "llama"
    adds_bos_unasked = sentencepiece or metadata.get("tokenizer.ggml.pre") in _WHOLE_WORDS_FIRST
    named = _named_ids(metadata)
    bos = named.get("bos_token") if metadata.get("tokenizer.ggml.add_bos_token", adds_bos_unasked) else None
    eos = named.get("eos_token") if metadata.get("tokenizer.ggml.add_eos_token", False) else None
    if bos is None and eos is None:
        return
    template = ["$A"]
    special = []
    if bos is not None:
        template.insert(0, tokens[bos])
        special.append((tokens[bos], bos))
    if eos is not None:
        template.append(tokens[eos])
        special.append((tokens[eos], eos))
    backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)


def _settings(metadata: Mapping[str, Any], tokens: list[str]) -> TokenizerSettings:
    named = _named_ids(metadata)
    ends = {metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom")}
    types = _types(metadata, tokens)
    by_name = {
        token: i for i, (token, kind) in enumerate(zip(tokens, types, strict=True)) if kind == _CONTROL
    }
    ends |= {by_name[name] for name in _END_NAMES if name in by_name}
    return TokenizerSettings(
        eos_token_ids=frozenset(i for i in ends if i is not None),
        chat_template=metadata.get("tokenizer.chat_template"),
        named_tokens={name: tokens[index] for name, index in named.items()},
    )
