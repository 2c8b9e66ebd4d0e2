"""What a conversation begins with, as keys that need no tokenizer.

    text      | 0 ... 255 | 256 ... 511 | 512 .. 600 |
    keys       k0 = h(root, 0..255)       (a piece that is not full has no key)
                           k1 = h(k0, 256..511)

Conversations are known by what they contain: the next turn begins with all of this one, and so do its
keys. The root is the owner's salt. A front door and its replicas compute the same keys from the same request.
"""

from collections.abc import Sequence
from hashlib import blake2b

from ridgeline.protocol.request import Message, Request

PIECE_BYTES = 256
"""Some 60 tokens: finer would cost more than it tells, a block of a replica has 16."""

_DIGEST_BYTES = 8


def canonical(messages: Sequence[Message]) -> bytes:
    """The text of a conversation in one form, whatever the model's template makes of it."""
    parts = [f"\x02{message.role}\x03{message.content}" for message in messages]
    return _bytes("".join(parts))


def prefix_keys(root: str, text: bytes, known: Sequence[bytes] = ()) -> list[bytes]:
    """Keys of all full pieces; `known` are those of a text that this one begins with."""
    keys = list(known)
    key = blake2b(_bytes(root), digest_size=_DIGEST_BYTES).digest()
    if keys:
        key = keys[-1]
    for end in range((len(keys) + 1) * PIECE_BYTES, len(text) + 1, PIECE_BYTES):
        key = blake2b(key + text[end - PIECE_BYTES : end], digest_size=_DIGEST_BYTES).digest()
        keys.append(key)
    return keys


def text_of(request: Request) -> bytes:
    """What a request begins with; token ids where it has no text."""
    if request.messages is not None:
        return canonical(request.messages)
    if isinstance(request.prompt, tuple):
        return b"".join(token.to_bytes(4, "little") for token in request.prompt)
    return _bytes(request.prompt or "")


def text_with_answer(request: Request, said: str) -> bytes:
    """What the conversation's next turn will begin with."""
    if request.messages is not None:
        return canonical([*request.messages, Message("assistant", said)])
    return text_of(request) + _bytes(said)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
