"""A tokenizer that needs no files: one token per byte."""

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from ridgeline.text.decoding import BYTE_LEVEL_ALPHABET
from ridgeline.text.tokenizer import HuggingFaceTokenizer, TokenizerSettings

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MINIMUM_VOCAB = 256 + len(SPECIAL_TOKENS)
"""Rows a model's embedding table needs for this tokenizer."""

_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class ByteTokenizer(HuggingFaceTokenizer):
    """Ids 0 to 255 are bytes, then `SPECIAL_TOKENS`, then made-up words up to `vocab_size`.

    The words are never encoded. They are there so that a model with random weights, or a simulated
    one, and a large vocabulary streams something that can be seen.
    """

    def __init__(self, vocab_size: int = MINIMUM_VOCAB) -> None:
        if vocab_size < MINIMUM_VOCAB:
            raise ValueError(f"vocab_size must be at least {MINIMUM_VOCAB}, not {vocab_size}")
        vocabulary = dict(BYTE_LEVEL_ALPHABET)
        vocabulary |= {token: 256 + n for n, token in enumerate(SPECIAL_TOKENS)}
        vocabulary |= {_word(token_id): token_id for token_id in range(MINIMUM_VOCAB, vocab_size)}
        backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens(list(SPECIAL_TOKENS))
        settings = TokenizerSettings(
            eos_token_ids=frozenset({256, 258}),
            chat_template=_TEMPLATE,
            named_tokens={"eos_token": "<|im_end|>"},
        )
        super().__init__(backend, settings)


def _word(number: int) -> str:
    """A space and letters, different for each number."""
    letters = ""
    while number:
        number, digit = divmod(number, 26)
        letters += chr(ord("a") + digit)
    return "\u0120" + letters
