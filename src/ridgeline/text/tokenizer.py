"""What a tokenizer is, and the one built on Hugging Face's `tokenizers`."""

import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import tokenizers

from ridgeline.protocol import Message, Refusal
from ridgeline.text.chat_template import ChatTemplate
from ridgeline.text.decoding import Decoding, decoding_of


class Tokenizer(Protocol):
    """Text to token ids and back. Thread-safe.

    Attributes:
        vocab_size: ids are below it.
        eos_token_ids: tokens with which the model ends an answer.
        has_chat_template: `encode_chat` works.
        decoding: how tokens become text, for `Detokenizer`.
    """

    vocab_size: int
    eos_token_ids: frozenset[int]
    has_chat_template: bool
    decoding: Decoding

    def encode(self, text: str) -> list[int]:
        """Ids of untrusted text: strings of special tokens stay text.

        The beginning-of-sequence token is added where the model's own tokenizer adds it.

        Raises:
            Refusal: `invalid_request` for a lone surrogate, which no encoding can carry.
        """
        ...

    def encode_chat(self, messages: Sequence[Message], *, continue_final_message: bool = False) -> list[int]:
        """Ids of a conversation, rendered with the chat template, ready for the answer.

        `continue_final_message` leaves the last message open, to be gone on with.

        Raises:
            Refusal: `invalid_request` on `messages` when the template refuses them or there is none.
        """
        ...

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """Text of ids; bytes that are not UTF-8 become U+FFFD."""
        ...

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token stands for in the middle of a text; empty for ids without a token."""
        ...

    def is_special(self, token_id: int) -> bool:
        """Whether the token is one of control, which `encode` never makes out of text."""
        ...


@dataclass(frozen=True, slots=True)
class TokenizerSettings:
    """What goes with a vocabulary.

    Attributes:
        eos_token_ids: tokens with which the model ends an answer.
        chat_template: Jinja source, or None.
        named_tokens: what templates may name: `bos_token`, `eos_token`, ...
    """

    eos_token_ids: frozenset[int] = frozenset()
    chat_template: str | None = None
    named_tokens: Mapping[str, str] = field(default_factory=dict)


class HuggingFaceTokenizer:
    """A `tokenizers.Tokenizer` that keeps untrusted text apart from control tokens.

    Text is encoded with special tokens switched off. A template's own control tokens are turned
    into stand-ins that nobody can type (they contain a random number), which the tokenizer
    recognises as ordinary added tokens; afterwards their ids are exchanged for the real ones. So
    everything between them is tokenised in its context, as `transformers` does.
    """

    def __init__(self, backend: tokenizers.Tokenizer, settings: TokenizerSettings) -> None:
        """Take over `backend` (it is changed).

        Raises:
            ValueError: if its decoder is of a kind that cannot be streamed, if it makes control tokens out of
                text, if its ids leave gaps, or if the chat template does not compile.
        """
        self.decoding: Decoding = decoding_of(backend)
        self.vocab_size: int = 1 + max(backend.get_vocab(with_added_tokens=True).values(), default=-1)
        self.eos_token_ids = settings.eos_token_ids
        self._special = _control_tokens(backend, settings.eos_token_ids)
        self._template = (
            ChatTemplate(settings.chat_template, settings.named_tokens) if settings.chat_template else None
        )
        self.has_chat_template = self._template is not None
        self._backend = backend
        self._bytes: dict[int, bytes] = {}
        self._add_stand_ins()
        backend.encode_special_tokens = True
        unknown = getattr(backend.model, "unk_token", None)  # stands for any text without a token
        for token_id, token in self._special.items():
            if (
                token.content != unknown
                and token_id in backend.encode(token.content, add_special_tokens=False).ids
            ):
                raise ValueError(f"its tokenizer makes the control token {token.content!r} out of text")

    def _add_stand_ins(self) -> None:
        nonce = secrets.token_hex(12)
        self._separator = str(secrets.randbits(96))
        self._stand_in_of = {t.content: f"\ue000{nonce}:{i}\ue001" for i, t in self._special.items()}
        self._backend.add_tokens(
            [
                tokenizers.AddedToken(
                    self._stand_in_of[t.content],
                    lstrip=t.lstrip,
                    rstrip=t.rstrip,
                    single_word=False,
                    normalized=False,
                    special=False,
                )
                for t in self._special.values()
            ]
        )
        self._real_id = {
            self._backend.token_to_id(self._stand_in_of[t.content]): i for i, t in self._special.items()
        }
        if any(stand_in is None or stand_in < self.vocab_size for stand_in in self._real_id):
            # New tokens are numbered from the size of the vocabulary on, whatever ids are taken.
            raise ValueError("its tokenizer's ids leave gaps")
        contents = sorted(self._stand_in_of, key=len, reverse=True)
        self._special_pattern = re.compile("|".join(map(re.escape, contents))) if contents else None

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer.encode`."""
        return self._ids(text, add_special_tokens=True)

    def _ids(self, text: str, *, add_special_tokens: bool) -> list[int]:
        try:
            return list(self._backend.encode(text, add_special_tokens=add_special_tokens).ids)
        except TypeError as error:  # how the library says that it cannot make UTF-8 of it
            raise Refusal(
                "invalid_request",
                "the text holds half a character (a lone surrogate, U+D800 to U+DFFF); send it as UTF-8",
            ) from error

    def encode_chat(self, messages: Sequence[Message], *, continue_final_message: bool = False) -> list[int]:
        """See `Tokenizer.encode_chat`."""
        if self._template is None:
            raise Refusal(
                "invalid_request",
                "This model has no chat template; send a plain prompt to /v1/completions.",
                param="messages",
            )
        rendered = self._template.render(
            [Message(self._break(m.role), self._break(m.content)) for m in messages],
            continue_final_message=continue_final_message,
        )
        if self._special_pattern is not None:
            rendered = self._special_pattern.sub(lambda m: self._stand_in_of[m.group()], rendered)
        rendered = rendered.replace(self._separator, "")
        ids = self._ids(rendered, add_special_tokens=False)
        return [self._real_id.get(i, i) for i in ids]

    def _break(self, text: str) -> str:
        """Put the separator inside everything that reads like a special token."""
        if self._special_pattern is None:
            return text
        return self._special_pattern.sub(lambda m: m.group()[0] + self._separator + m.group()[1:], text)

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """See `Tokenizer.decode`."""
        known = [i for i in token_ids if 0 <= i < self.vocab_size]
        return str(self._backend.decode(known, skip_special_tokens=skip_special_tokens))

    def token_bytes(self, token_id: int) -> bytes:
        """See `Tokenizer.token_bytes`."""
        found = self._bytes.get(token_id)
        if found is None:
            token = self._backend.id_to_token(token_id) if 0 <= token_id < self.vocab_size else None
            found = b"" if token is None else self.decoding.bytes_of(token_id, token)
            self._bytes[token_id] = found
        return found

    def is_special(self, token_id: int) -> bool:
        """See `Tokenizer.is_special`."""
        return token_id in self._special


_CONTROL_SPELLING = re.compile(r"<\|[^|<>]+\|>")


def _control_tokens(
    backend: tokenizers.Tokenizer, eos_token_ids: frozenset[int]
) -> dict[int, tokenizers.AddedToken]:
    """Tokens that text must never become, by id.

    Beside those marked special: the ends of answers, and `<|...|>`, which some fine-tuned models
    forget to mark. Other added tokens (`<think>`, say) are text that happens to be one token.
    """
    tokens = backend.get_added_tokens_decoder()
    for token_id, token in tokens.items():
        if not token.special and (token_id in eos_token_ids or _CONTROL_SPELLING.fullmatch(token.content)):
            token.special = True
            backend.add_special_tokens([token])
    return {token_id: token for token_id, token in tokens.items() if token.special and token.content}
