"""Building a tokenizer from the files of a Hugging Face folder."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors

from ridgeline.text.tokenizer import HuggingFaceTokenizer, TokenizerSettings

_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")
_EOS_FILES = ("generation_config.json", "config.json")


def tokenizer_from_folder(folder: Path) -> HuggingFaceTokenizer:
    """The tokenizer in `tokenizer.json` with the settings and the chat template beside it.

    Raises:
        ValueError: when there is none, or it is damaged or of a kind that is not supported.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        others = [n for n in ("tokenizer.model", "vocab.json") if (folder / n).is_file()]
        hint = f"; convert its {others[0]} with transformers' save_pretrained" if others else ""
        raise ValueError(f"it has no tokenizer.json{hint}")
    config = _read(folder / "tokenizer_config.json")
    named = _named_tokens(folder, config)
    backend = _backend(path, named)
    backend.no_truncation()
    backend.no_padding()
    if _is_rebuilt_llama(backend, config, _read(folder / "config.json")):
        _rebuild_llama(backend, config)
    _add_tokens(backend, config, named)
    _update_post_processor(backend, config, named)
    settings = TokenizerSettings(
        eos_token_ids=_eos_token_ids(folder, backend, named),
        chat_template=_chat_template(folder, config),
        named_tokens=named,
    )
    return HuggingFaceTokenizer(backend, settings)


def _backend(path: Path, named: Mapping[str, str]) -> Tokenizer:
    """The tokenizer of the file, without merges that would make a control token out of text."""
    described = _read(path)
    try:
        model = described["model"]
        if model["type"] != "BPE":
            raise ValueError(f"its tokenizer.json is of type {model['type']!r}; supported is 'BPE'")
        control = {token["content"] for token in described.get("added_tokens", ()) if token["special"]}
        control |= set(named.values())
        kept = [
            m
            for m in model["merges"]
            if (m.replace(" ", "", 1) if isinstance(m, str) else m[0] + m[1]) not in control
        ]
    except (KeyError, TypeError) as error:
        raise ValueError(f"its tokenizer.json is damaged (no {error})") from error
    try:
        if len(kept) == len(model["merges"]):
            return Tokenizer.from_file(str(path))
        model["merges"] = kept
        return Tokenizer.from_str(json.dumps(described))
    except Exception as error:  # the library raises nothing more specific
        raise ValueError(f"its tokenizer.json is damaged ({error})") from error


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"its {path.name} is damaged ({error})") from error
    if not isinstance(values, dict):
        raise ValueError(f"its {path.name} does not hold a JSON object")
    return values


def _content(token: object) -> str | None:
    """Named tokens are written as strings or as objects."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) and token else None


def _named_tokens(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    older = _read(folder / "special_tokens_map.json")
    found = {name: _content(config.get(name, older.get(name))) for name in _NAMED}
    return {name: token for name, token in found.items() if token is not None}


def _is_rebuilt_llama(backend: Tokenizer, config: Mapping[str, Any], model: Mapping[str, Any]) -> bool:
    """Whether transformers 5 takes only vocabulary and merges from the file and makes the rest itself."""
    kind = str(config.get("tokenizer_class", "")).removesuffix("Fast")
    steps = f"{backend.pre_tokenizer}{backend.decoder}"
    return kind == "LlamaTokenizer" and model.get("model_type") == "llama" and "ByteLevel" not in steps


def _rebuild_llama(backend: Tokenizer, config: Mapping[str, Any]) -> None:
    prefix = config.get("add_prefix_space")
    prefix = True if prefix is None else bool(prefix)
    scheme = ("always" if config.get("legacy", False) else "first") if prefix else "never"
    backend.normalizer = None
    backend.pre_tokenizer = pre_tokenizers.Metaspace("\u2581", prepend_scheme=scheme, split=False)
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if prefix else []))


def _add_tokens(backend: Tokenizer, config: Mapping[str, Any], named: Mapping[str, str]) -> None:
    """Tokens that only `tokenizer_config.json` names, in the order of their ids."""
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    listed = config.get("added_tokens_decoder") or {}
    for _, token in sorted(listed.items(), key=lambda item: int(item[0])):
        content = _content(token)
        if content is None or content in known:
            continue
        known.add(content)
        flags = {k: bool(token.get(k, False)) for k in ("lstrip", "rstrip", "single_word", "special")}
        added = AddedToken(content, normalized=bool(token.get("normalized", False)), **flags)
        (backend.add_special_tokens if flags["special"] else backend.add_tokens)([added])
    missing = [AddedToken(t, normalized=False, special=True) for t in named.values() if t not in known]
    backend.add_special_tokens(missing)


def _update_post_processor(backend: Tokenizer, config: Mapping[str, Any], named: Mapping[str, str]) -> None:
    """`add_bos_token` and `add_eos_token`, where given, override what `tokenizer.json` does."""
    if "add_bos_token" not in config and "add_eos_token" not in config:
        return
    first = named.get("bos_token") if config.get("add_bos_token") else None
    last = named.get("eos_token") if config.get("add_eos_token") else None
    ids = [(token, backend.token_to_id(token)) for token in (first, last) if token]
    single = [token for token in (first, "$A", last) if token]
    backend.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)


def _eos_token_ids(folder: Path, backend: Tokenizer, named: Mapping[str, str]) -> frozenset[int]:
    found: set[int] = set()
    for name in _EOS_FILES:
        value = _read(folder / name).get("eos_token_id")
        found |= set(value if isinstance(value, list) else [value]) - {None}
    named_id = backend.token_to_id(named["eos_token"]) if "eos_token" in named else None
    found |= set() if named_id is None else {named_id}
    if not all(isinstance(i, int) for i in found):
        raise ValueError(f"its eos_token_id {found!r} is not a token id")
    return frozenset(found)


def _chat_template(folder: Path, config: Mapping[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {entry.get("name"): entry.get("template") for entry in template}
        template = named.get("default")
    return template if isinstance(template, str) else None
