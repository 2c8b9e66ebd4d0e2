"""Sizes, an answer with everything in it, and ways through the page that suit every size."""

from typing import Any

from chatting import box
from playwright.sync_api import Page, expect

WIDE: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}
CALM: dict[str, Any] = {"reduced_motion": "reduce"}  # colours half-way to others say nothing
RICH = """## A heading

Text with `code`, a [link](https://example.org/) and $a^2 + b^2 = c^2$.

| Name | Value |
|:-----|------:|
| one  |     1 |

```python
def palindrome(word: str) -> bool:  # a comment
    return word == word[::-1] and len(word) > 0x10
```

$$\\int_0^1 x^2 \\, dx = \\frac{1}{3}$$

> A quotation, with a list:
>
> 1. first
> 2. second
"""


def say(page: Page, text: str) -> None:
    """Send, as one does with a finger or a mouse."""
    box(page).fill(text)
    page.get_by_role("button", name="Send", exact=True).click()


def open_list(page: Page) -> None:
    """Show the list where it is not shown."""
    if page.get_by_role("navigation").count() == 0:
        page.get_by_role("button", name="Show conversations").click()
        expect(page.get_by_role("navigation")).to_be_in_viewport()


def close_list(page: Page) -> None:
    """Hide the list where it covers the rest."""
    if page.locator(".pane[inert]").count():
        page.get_by_role("button", name="Hide conversations").click()
        expect(page.locator(".pane[inert]")).to_have_count(0)
