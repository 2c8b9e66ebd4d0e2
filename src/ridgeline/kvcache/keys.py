"""Identity of a cached block: a chain of hashes over everything before it.

    tokens   | 0 ..... 15 | 16 .... 31 | 32 .. 37
    keys       k0 = h(root, 0..15)       (a block that is not full has no key)
                            k1 = h(k0, 16..31)

The root is a salt, so that the same text of two tenants has different keys and neither can see
by `cached_tokens` or by timing what the other typed.
"""

from array import array
from collections.abc import Sequence
from hashlib import blake2b

DIGEST_BYTES = 16


def root_key(salt: str) -> bytes:
    """Key before the first block for everybody who may share blocks under this salt."""
    return blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()


def extend_keys(keys: list[bytes], root: bytes, tokens: Sequence[int], block_size: int) -> None:
    """Append the keys of all full blocks of `tokens` that `keys` does not have yet."""
    for end in range((len(keys) + 1) * block_size, len(tokens) + 1, block_size):
        parent = keys[-1] if keys else root
        packed = array("q", tokens[end - block_size : end]).tobytes()
        keys.append(blake2b(parent + packed, digest_size=DIGEST_BYTES).digest())
