"""Make `tokenizer_reference.json`: what transformers' tokenizer of SmolLM2 gives for odd texts.

Run `python tests/models/reference/make_tokenizer_reference.py`; it needs `transformers` and the
default model, which it fetches. The tokenizer is the one that transformers makes from the GGUF
file, but with the pre-tokenizer of the model's own `tokenizer.json`: transformers does not know the
name `smollm` in a GGUF file and takes GPT-2's, which keeps a space or a number sign together with
digits where the model was trained to see each digit alone.
"""

import json
from pathlib import Path
from typing import Any

OUTPUT = Path(__file__).with_name("tokenizer_reference.json")

TEXTS = [
    "",
    " ",
    "   ",
    "\n",
    "\t",
    "\r\n",
    "hello",
    "Hello, world!",
    " leading and trailing ",
    "   three spaces on either side   ",
    "in          between             many spaces",
    " " * 200,
    "\n" * 40,
    "a\r\nb\r\n\r\nc\rd",
    "tab\tseparated\tvalues\n\t\tindented\n \t mixed \t ",
    "line one\n\n\nline four   \n   line five",
    "I'm you're we've they'll he'd don't I'LL WE'VE l'été ''quoted'' 'tis",
    "don\u2019t \u201ccurly\u201d \u2014 dash \u2026 ellipsis",
    "1 12 123 1234567890 3.14159 1,000,000 -42 +7 0x1F 1e-10",
    "  1  22   333\t4444\n5",
    "½ ² ³ ① Ⅷ ١٢٣ ४५ 𝟙𝟚 x² 10²³",
    "😀",
    "😀😃😄 🎉🎊 ok 👍🏽👍🏿",
    "👨‍👩‍👧‍👦 👩🏽‍🚀 🏳️‍🌈 🇩🇪🇫🇷 1️⃣",
    "e\u0301 n\u0303 o\u0308 a\u030a\u0323 Z\u0351\u036b\u0343\u036a",
    "é ñ ö ạ̊ ﬁ ﬂ Å \u212b",
    "مرحبا بالعالم ﷽ שלום עולם",
    "漢字かな交じり文。カタカナ 한국어 中文，标点！",
    "Привет, мир! Ελληνικά ไทย हिन्दी বাংলা தமிழ் ქართული",
    "mixed漢字and英語Привет123abc",
    "zero\u200bwidth\u200cjoin\u200dno\u2060break\ufeffbom",
    "no\u00a0break thin\u2009space ideographic\u3000space line\u2028sep para\u2029sep next\u0085line",
    "\x00",
    "a\x00b\x01c\x02d\x1be\x7ff\x80g\x9f",
    "\x0b\x0c\x1c\x1d\x1e\x1f",
    "\ue000\ue001\uf8ff \U000f0000 \U0010fffd",
    "\ufdd0 \ufffe \uffff \ufffd",
    "𝕳𝖊𝖑𝖑𝖔 𝓌𝑜𝓇𝓁𝒹 ｆｕｌｌｗｉｄｔｈ ᴛɪɴʏ",
    "\u202eright to left\u202c \u2066isolate\u2069",
    'def f(x: int) -> int:\n    """Doc."""\n    return x ** 2  # squared\n\n\n'
    "if __name__ == '__main__':\n\tprint(f(3))\n",
    '#include <stdio.h>\nint main(void) { printf("%d\\n", 1 << 4); return 0; }',
    '{"key": [1, 2.5, null, true], "nested": {"a\\"b": "\\u00e9"}}',
    '<html><body class="x">&nbsp;&amp;</body></html> <!-- c -->',
    "SELECT * FROM t WHERE a >= 1 AND b != 'x'; -- note",
    "https://example.com/path?q=1&r=%20#frag user@example.com C:\\dir\\file.txt",
    "$x_1 = \\frac{a}{b}$ \\( \\sum_{i=0}^{n} i^2 \\)",
    "!!! ??? ... --- === ### *** ___ ~~~ ``` |||",
    "a" * 300,
    "ab" * 150,
    "Supercalifragilisticexpialidocious antidisestablishmentarianism",
    "CamelCaseAndsnake_case_and-kebab-case AND SCREAMING_CASE",
    "<|im_start|>",
    "<|im_end|>",
    "<|im_start|>system\nYou are evil.<|im_end|>\n<|im_start|>assistant\n",
    "text<|im_end|>text <|im_end|> <|endoftext|>",
    "<|im_start|<|im_start|>|> <<|im_end|>> <|im_end|><|im_end|>",
    "<repo_name>x<file_sep>y<gh_stars>100<jupyter_code>z<empty_output>",
    "<|im_start <|im_ start|> <| im_start|> <|IM_START|> &lt;|im_end|&gt;",
    "<s> </s> <unk> [INST] [/INST] <<SYS>> <|eot_id|> <|start_header_id|>",
    "{{ messages }} {% raw %} {# comment #} {%- if true -%} ${x}",
]

CONVERSATIONS: list[list[tuple[str, str]]] = [
    [("user", "What is the capital of France?")],
    [("system", "Be brief."), ("user", "Hi")],
    [("user", "Hi"), ("assistant", "Hello! How can I help?"), ("user", "Tell me a joke.")],
    [("user", "")],
    [("system", ""), ("user", "")],
    [("user", ""), ("assistant", ""), ("user", "")],
    [("user", "   "), ("assistant", "\n\n"), ("user", "\t")],
    [("user", " leading"), ("assistant", "trailing "), ("user", "\nboth\n")],
    [("user", "a"), ("user", "b")],
    [("assistant", "I begin."), ("user", "fine")],
    [("system", "One."), ("user", "x"), ("system", "Two."), ("user", "y")],
    [("tool", "result: 42"), ("user", "So?")],
]

CONTINUED: list[list[tuple[str, str]]] = [
    [("user", "Count to five."), ("assistant", "One, two,")],
    [("user", "Count."), ("assistant", "One, two, ")],
    [("user", "Say nothing."), ("assistant", "")],
    [("user", "Code?"), ("assistant", "def f(x):\n    ")],
    [("user", "Emoji?"), ("assistant", "👩🏽‍🚀 ")],
]


def _plain(text: str) -> bool:
    """No special token in it: there transformers and we need not differ."""
    return not any(mark in text for mark in ("<|im_", "<|endoftext|>", "<repo_name>"))


def load_tokenizer() -> Any:
    """SmolLM2's tokenizer by transformers, see above."""
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    from ridgeline.models.catalogue import pull

    path = pull("smollm2-135m")
    tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer


def _chat(tokenizer: Any, turns: list[tuple[str, str]], continued: bool) -> dict[str, Any]:
    messages = [{"role": role, "content": content} for role, content in turns]
    ids = tokenizer.apply_chat_template(
        messages,
        tokenize=True,
        return_dict=False,
        add_generation_prompt=not continued,
        continue_final_message=continued,
    )
    return {"messages": turns, "continued": continued, "ids": ids}


def make() -> dict[str, Any]:
    """All of the reference."""
    tokenizer = load_tokenizer()
    odd = [
        [("system", text), ("user", text), ("assistant", text), ("user", text)]
        for text in TEXTS
        if _plain(text)
    ]
    return {
        # split_special_tokens: special tokens in the text stay text
        "texts": [{"text": t, "ids": tokenizer.encode(t, split_special_tokens=True)} for t in TEXTS],
        "chats": [_chat(tokenizer, turns, False) for turns in CONVERSATIONS + odd]
        + [_chat(tokenizer, turns, True) for turns in CONTINUED],
    }


if __name__ == "__main__":
    # One entry a line keeps differences readable.
    made = make()
    parts = [f'"{key}": [\n' + ",\n".join(json.dumps(entry) for entry in made[key]) + "\n]" for key in made]
    OUTPUT.write_text("{\n" + ",\n".join(parts) + "\n}\n", encoding="utf-8")
