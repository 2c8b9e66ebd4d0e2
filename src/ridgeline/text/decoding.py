"""How tokens become text: the two families of decoders, as data that can be applied token by token."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import tokenizers

_SPACE = "\u2581"


def _byte_level_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-in for each byte, reversed: character to byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in set(printable))
    return alphabet | {chr(256 + n): byte for n, byte in enumerate(others)}


BYTE_LEVEL_ALPHABET = _byte_level_alphabet()


@dataclass(frozen=True, slots=True)
class Decoding:
    """Rules of a decoder.

    Attributes:
        byte_level: tokens are spelled in GPT-2's alphabet of bytes, and bad UTF-8 becomes one
            U+FFFD per maximal bad part. Otherwise tokens are text with U+2581 for a space.
        byte_tokens: the byte of each byte-fallback token (`<0x0A>`), by id; a run of them that is
            not UTF-8 as a whole becomes one U+FFFD per byte.
        strip_start: spaces taken off the start of the text.
        drop_first: U+2581 vanishes from the first token.
        spaces: U+2581 stands for a space.
    """

    byte_level: bool = True
    byte_tokens: Mapping[int, int] = field(default_factory=dict)
    strip_start: int = 0
    drop_first: bool = False
    spaces: bool = False

    def bytes_of(self, token_id: int, token: str) -> bytes:
        """What a token stands for in the middle of a text."""
        if self.byte_level:
            try:
                return bytes(BYTE_LEVEL_ALPHABET[c] for c in token)
            except KeyError:  # an added token in plain text
                return token.encode()
        if token_id in self.byte_tokens:
            return bytes((self.byte_tokens[token_id],))
        return (token.replace(_SPACE, " ") if self.spaces else token).encode()


def decoding_of(backend: tokenizers.Tokenizer) -> Decoding:
    """Rules of a tokenizer's decoder.

    Raises:
        ValueError: for a decoder of another family.
    """
    if backend.decoder is None:
        raise ValueError("the tokenizer has no decoder")
    description = json.loads(backend.decoder.__getstate__())
    steps = description["decoders"] if description["type"] == "Sequence" else [description]
    rules: dict[str, Any] = {"byte_level": False}
    fused = False
    for step in steps:
        match step:
            case {"type": "ByteLevel"}:
                rules["byte_level"] = True
            case {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}:
                rules["spaces"] = True
            case {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme}:
                rules |= {"spaces": True, "drop_first": scheme != "never"}
            case {"type": "ByteFallback"}:
                rules["byte_tokens"] = _byte_tokens(backend)
            case {"type": "Fuse"}:
                fused = True
            case {"type": "Strip", "content": " ", "start": start, "stop": 0} if fused:
                rules["strip_start"] = start
            case _:
                raise ValueError(f"the tokenizer's decoder {step.get('type')!r} cannot be streamed")
    return Decoding(**rules)


def _byte_tokens(backend: tokenizers.Tokenizer) -> dict[int, int]:
    ids = {backend.token_to_id(f"<0x{byte:02X}>"): byte for byte in range(256)}
    return {token_id: byte for token_id, byte in ids.items() if token_id is not None}
