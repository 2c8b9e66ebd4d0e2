"""One answer at a time with drafts and without, in turns: tokens per second, and how many drafts were right.

    python benchmarks/cpu/drafts.py [--model smollm2-135m] [--drafts 7] [--repetitions 5] [--out FILE]

The same engine as is served, with `--draft-tokens` and without it, answers the same questions greedily: some
whose answers repeat the question, some whose answers do not. Both must draw the same tokens; where they part,
at a near-tie that another order of summing decides, what follows is another answer, and that is told. Medians
of the repetitions, the time of the prompt not counted. Nothing else may run on the cores. The last line is
JSON.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from cpu import machine
from cpu.ours_worker import GREEDY, engine_of
from ridgeline.engine.core.messages import Submit
from ridgeline.engine.core.sequence import SequenceSpec
from ridgeline.engine.options import EngineOptions
from ridgeline.models.files import open_model
from ridgeline.protocol import Message

MOST_TOKENS = 256

TEXT = (Path(__file__).parent / "alice.txt").read_text(encoding="utf-8")
CODE = """def mean(numbers):
    total = 0
    for number in numbers:
        total += number
    return total / len(numbers)


def variance(numbers):
    middle = mean(numbers)
    total = 0
    for number in numbers:
        total += (number - middle) ** 2
    return total / len(numbers)
"""

QUESTIONS = {
    "repeat a text": f"Repeat this text word for word:\n\n{' '.join(TEXT.split()[5:130])}",
    "change code": f"Rename the variable `total` to `result` in this code and print all of it:\n\n{CODE}",
    "tell a story": "Tell me a story about a lighthouse keeper who finds a letter in a bottle.",
    "explain": "Explain why the sky is blue, and why sunsets are red.",
}


class Answering:
    """An engine that is asked one question at a time."""

    def __init__(self, options: argparse.Namespace, draft_tokens: int) -> None:
        asked = EngineOptions(draft_tokens=draft_tokens, threads=options.threads)
        self.engine = engine_of(options.model, asked)
        self._asked = 0

    def answer(self, prompt: tuple[int, ...], stop: frozenset[int]) -> tuple[list[int], float]:
        """The answer's tokens, and tokens per second after the first."""
        engine = self.engine
        self._asked += 1
        spec = SequenceSpec(str(self._asked), prompt, GREEDY, MOST_TOKENS, stop)
        now = time.monotonic()
        engine.handle(Submit(spec, now), now)
        tokens: list[int] = []
        started = 0.0
        while engine.has_work:
            for output in engine.step(time.monotonic):
                if output.refusal is not None:
                    raise RuntimeError(output.refusal.message)
                tokens += output.token_ids
                started = started or time.perf_counter()
        return tokens, (len(tokens) - 1) / (time.perf_counter() - started)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All questions, with and without."""
    tokenizer = open_model(options.model).tokenizer
    stop = frozenset(tokenizer.eos_token_ids)
    plain, drafting = Answering(options, 0), Answering(options, options.drafts)
    rows = {}
    for name, question in QUESTIONS.items():
        prompt = tuple(tokenizer.encode_chat([Message("user", question)]))
        counters = drafting.engine.scheduler.counters
        drafted, accepted = counters.drafted, counters.accepted
        rates: dict[str, list[float]] = {"plain": [], "drafts": []}
        for turn in range(options.repetitions + 1):
            wanted, slow = plain.answer(prompt, stop)
            tokens, fast = drafting.answer(prompt, stop)
            if turn:  # the first time prompts are computed and memory is new
                rates["plain"].append(slow)
                rates["drafts"].append(fast)
        drafted, accepted = counters.drafted - drafted, counters.accepted - accepted
        same = next(
            (i for i, pair in enumerate(zip(wanted, tokens, strict=False)) if len(set(pair)) > 1), None
        )
        ratios = [fast / slow for fast, slow in zip(rates["drafts"], rates["plain"], strict=True)]
        rows[name] = {
            "tokens": len(tokens),
            "same_tokens": len(tokens) if same is None and len(tokens) == len(wanted) else same,
            "plain": statistics.median(rates["plain"]),
            "drafts": statistics.median(rates["drafts"]),
            "ratio": statistics.median(ratios),
            "ratios": sorted(ratios),
            "drafted": drafted,
            "accepted_ratio": accepted / drafted if drafted else None,
            "tokens_per_step": len(tokens) / max(1, len(tokens) - accepted / (options.repetitions + 1)),
        }
    return {
        "benchmark": "cpu_drafts",
        "date": machine.today(),
        "machine": machine.describe(options.threads),
        "model": options.model,
        "drafts": options.drafts,
        "rows": rows,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--drafts", type=int, default=7, help="most tokens guessed in a step")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write the line of JSON into this file too")
    options = parser.parse_args()
    found = measure(options)
    print("| answer | tokens | without, tokens/s | with drafts | ratio | drafts right | tokens a step |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, row in found["rows"].items():
        right = "-" if row["accepted_ratio"] is None else f"{row['accepted_ratio']:.0%} of {row['drafted']}"
        spread = f"{row['ratios'][0]:.2f} to {row['ratios'][-1]:.2f}"
        print(
            f"| {name} | {row['tokens']} | {row['plain']:.0f} | {row['drafts']:.0f} "
            f"| {row['ratio']:.2f}x ({spread}) | {right} | {row['tokens_per_step']:.2f} |"
        )
        if row["same_tokens"] != row["tokens"]:
            print(f"{name}: the answers part after {row['same_tokens']} tokens")
    line = json.dumps(found)
    if options.out:
        options.out.write_text(line + "\n", encoding="utf-8")
    print(line)


if __name__ == "__main__":
    main()
