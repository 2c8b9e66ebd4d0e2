"""Text out of tokens as they come, never half a character."""

import codecs
from collections.abc import Iterable

from ridgeline.text.tokenizer import Tokenizer


class Detokenizer:
    """One answer's text. All pushes and the flush together equal `decode` of all ids.

    Work per token does not grow with the answer.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._rules = tokenizer.decoding
        self._skip = skip_special_tokens
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._run = bytearray()  # byte-fallback tokens that are valid or not only as a whole
        self._first = True
        self._strip = self._rules.strip_start

    def push(self, token_ids: Iterable[int]) -> str:
        """Take further tokens, return the characters that are now whole."""
        special = self._tokenizer.is_special
        return self._strip_start("".join(self._add(i) for i in token_ids if not (self._skip and special(i))))

    def flush(self) -> str:
        """The rest, at the end of the answer; a character left incomplete becomes U+FFFD."""
        return self._strip_start(self._utf8.decode(b"", final=True) + self._end_run())

    def _add(self, token_id: int) -> str:
        token = self._tokenizer.token_bytes(token_id)
        if self._rules.byte_level or not token:
            return self._utf8.decode(token)
        if token_id in self._rules.byte_tokens:
            self._first = False
            self._run += token
            return ""
        text = token.decode()
        if self._first and self._rules.drop_first:
            text = text.replace(" ", "")
        self._first = False
        return self._end_run() + text

    def _end_run(self) -> str:
        run, self._run = self._run, bytearray()
        try:
            return run.decode()
        except UnicodeDecodeError:
            return "\ufffd" * len(run)

    def _strip_start(self, text: str) -> str:
        if not self._strip or not text:
            return text
        kept = text.lstrip(" ")
        spaces = len(text) - len(kept)
        cut = min(spaces, self._strip)
        self._strip = 0 if kept else self._strip - cut
        return text[cut:]
