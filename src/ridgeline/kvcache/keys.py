"""Identity of a cached block: a chain of hashes over everything before it.

    tokens   | 0 ..... 15 | 16 .... 31 | 32 .. 37
    keys       k0 = h(root, 0..15)       (a block that is not full has no key)
                            k1 = h(k0, 16..31)

The root is a salt, so that the same text of two tenants has different keys and neither can see
by `cached_tokens` or by timing what the other typed. Only prefixes that the operator registered have
keys without a salt, which all tenants share; where a text leaves them, the salt comes in:

    registered block -> registered block -> h(root, key before, tokens) -> ...
"""

from array import array
from collections.abc import Iterable, Sequence
from hashlib import blake2b

DIGEST_BYTES = 16


def root_key(salt: str) -> bytes:
    """Key before the first block for everybody who may share blocks under this salt."""
    return blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=DIGEST_BYTES).digest()


_PUBLIC_ROOT = blake2b(b"\xffregistered", digest_size=DIGEST_BYTES).digest()
"""No salt has it, for no text in UTF-8 has such a byte."""


def extend_keys(
    keys: list[bytes],
    root: bytes,
    tokens: Sequence[int],
    block_size: int,
    shared: frozenset[bytes] = frozenset(),
) -> None:
    """Append the keys of all full blocks of `tokens` that `keys` does not have yet.

    Args:
        keys: those before.
        root: of the tenant.
        tokens: from the beginning.
        block_size: tokens in a block.
        shared: what `shared_keys` gave.
    """
    for end in range((len(keys) + 1) * block_size, len(tokens) + 1, block_size):
        packed = array("q", tokens[end - block_size : end]).tobytes()
        before = keys[-1] if keys else root
        if shared and (not keys or before in shared):
            public = _hash((before if keys else _PUBLIC_ROOT) + packed)
            if public in shared:
                keys.append(public)
                continue
            before = _hash(root + before)
        keys.append(_hash(before + packed))


def shared_keys(prefixes: Iterable[Sequence[int]], block_size: int) -> frozenset[bytes]:
    """Keys of all full blocks of token sequences that every tenant may know."""
    found: set[bytes] = set()
    for tokens in prefixes:
        keys: list[bytes] = []
        extend_keys(keys, _PUBLIC_ROOT, tokens, block_size)
        found.update(keys)
    return frozenset(found)


def _hash(data: bytes) -> bytes:
    return blake2b(data, digest_size=DIGEST_BYTES).digest()
