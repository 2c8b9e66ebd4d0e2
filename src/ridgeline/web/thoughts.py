"""What a model thought aloud before it answered: `<think>...</think>` at the beginning of its text."""

import re

_THOUGHTS = re.compile(r"\A\s*<think>.*?(?:</think>\s*|\Z)", re.DOTALL)
NO_THOUGHTS = "<think>\n\n</think>\n\n"


def spoken(content: str) -> str:
    """An answer without its thoughts; nothing where they did not come to their end."""
    return _THOUGHTS.sub("", content, count=1)
