"""Small tokenizers of each family, trained in a second, as Hugging Face folders and GGUF metadata."""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

CORPUS = json.loads((Path(__file__).parent.parent / "models/reference/tokenizer_reference.json").read_text())
TEXTS: list[str] = [entry["text"] for entry in CORPUS["texts"]]
CHATML = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LLAMA2 = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set rest = messages[1:] %}{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% else %}{% set rest = messages %}{% set system = '' %}{% endif %}"
    "{% for m in rest %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if m['role'] == 'user' %}"
    "{{ bos_token + '[INST] ' + (system if loop.first else '') + m['content'].strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_byte_level(split: str | None, special: list[str], nfc: bool = False) -> Tokenizer:
    """Byte-level BPE; `split` is the regular expression, None for GPT-2's."""
    tokenizer = Tokenizer(models.BPE())
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), gpt2]) if split else gpt2
    )
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def train_sentencepiece() -> Tokenizer:
    """BPE over characters with byte fallback, in the manner of Llama 2's tokenizer.json."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    # Few letters, so that the rest falls back to bytes.
    trainer = trainers.BpeTrainer(vocab_size=700, special_tokens=special, limit_alphabet=100)
    tokenizer.train_from_iterator([t for t in TEXTS if len(t) < 200] * 2, trainer)
    described = json.loads(tokenizer.to_str())
    described["added_tokens"] = described["added_tokens"][:3]
    return Tokenizer.from_str(json.dumps(described))


def add_bos(tokenizer: Tokenizer, bos: str) -> None:
    """Put `bos` before every text."""
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(
        single=[bos, "$A"], special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )


def write_folder(
    folder: Path,
    tokenizer: Tokenizer,
    model_type: str,
    settings: dict[str, Any],
    extra: list[AddedToken] = (),
) -> Path:
    """A Hugging Face folder with tokenizer and configuration, without weights."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.add_tokens(list(extra))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


def gguf_metadata(tokenizer: Tokenizer, kind: str, pre: str, control: list[str]) -> dict[str, Any]:
    """What a converter would write of this tokenizer into a GGUF file."""
    described = json.loads(tokenizer.to_str())
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    added = {token["content"]: token["special"] for token in described["added_tokens"]}
    types = [3 if t in control else 4 if t in added else 6 if t.startswith("<0x") else 1 for t in tokens]
    merges = [" ".join(m) if isinstance(m, list) else m for m in described["model"]["merges"]]
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": kind,
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
    }
    if kind == "gpt2":
        return metadata | {"tokenizer.ggml.merges": merges}
    order = {"".join(m.split(" ")): -float(rank) for rank, m in reversed(list(enumerate(merges)))}
    scores = [order.get(t, -1e6 if kind_of == 1 else 0.0) for t, kind_of in zip(tokens, types, strict=True)]
    return metadata | {"tokenizer.ggml.scores": scores}
