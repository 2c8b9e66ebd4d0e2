"""Steps that follow a target beside the two best fixed settings, on this processor with a real model.

    python benchmarks/pace/live.py [--rounds 6] [--seconds 20] [--json FILE]

The contenders have an engine each and take turns, round by round, with the same conversations: chats
and prompts to be summarised, at a rate near what can be carried. The two fixed settings are those that did
best in a round of all of them first, or the --rivals. Goodput as in `compare.py`, with 100 ms between
tokens. The last line is JSON, with the mean difference of goodput and its 95 % interval over the rounds.
"""

import argparse
import json
import logging
import math
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pace.play import Play, Setting
from pace.workloads import Conversation, Kind, conversations
from ridgeline.engine.executors.clock import RealClock
from ridgeline.engine.executors.cpu import CpuExecutor
from ridgeline.engine.meter import CostModel
from ridgeline.models.files import open_model

TARGET_SECONDS = 0.1
CHAT = Kind("chat", 3, 200, 60, 60, ttft_seconds=1.0, think_seconds=1.0)
SUMMARISE = Kind("summarise", 1, 50, 900, 40, ttft_seconds=1.5)

MAX_BATCH, MAX_TOKENS = 64, 1024
GRID = tuple(Setting(tokens, sequences) for tokens in (64, 128, 256, 512) for sequences in (16, 32, 64))

HARDER = 1.3
"""Times the load, when the rivals are chosen: with less, many of them answer everything in time."""

STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36, 9: 2.31, 10: 2.26}
"""97.5 % quantile of Student's t by number of rounds."""


def work(seconds: float, load: float, seed: int) -> Iterator[Conversation]:
    """Both kinds at once, `load` times as many as the default."""
    yield from conversations(CHAT, 2.2 * load, 0.0, seconds, seed)
    yield from conversations(SUMMARISE, 1.2 * load, 0.0, seconds, seed)


def contender(setting: Setting, threads: int) -> Play:
    """An engine of its own."""
    files = open_model("smollm2-135m")
    device = CpuExecutor(
        files,
        dtype="auto",
        kv_memory_bytes=1 << 30,
        max_batch=MAX_BATCH,
        max_context_tokens=4096,
        threads=threads,
    )
    costs = CostModel(
        files.config.shape(),
        device.hardware,
        device.dtype,
        MAX_TOKENS,
        kv_dtype=device.kv_dtype,
        weights=device.weight_bytes,
    )
    return Play(device, costs, RealClock(), setting, TARGET_SECONDS)


def best_of_grid(seconds: float, load: float, threads: int) -> list[Setting]:
    """Of each number of tokens the best setting, the best of all first; more tokens per second break ties."""
    scored = []
    for setting in GRID:
        play = contender(setting, threads)
        score = play.run(work(seconds, load, 0))
        play.close()
        print(f"{setting.name:28} {score.goodput:6.1%}  {score.tokens_per_second:.0f} tokens/s", flush=True)
        scored.append((score.goodput, score.tokens_per_second, setting))
    best: dict[int | None, Setting] = {}
    for _, _, setting in sorted(scored, key=lambda entry: entry[:2], reverse=True):
        best.setdefault(setting.tokens, setting)
    return list(best.values())


def setting_of(text: str) -> Setting:
    """`128x64` is 128 tokens and 64 sequences."""
    tokens, _, sequences = text.partition("x")
    return Setting(int(tokens), int(sequences))


def difference(ours: list[float], theirs: list[float]) -> tuple[float, float]:
    """Mean of the differences round by round, and half of its 95 % interval."""
    gaps = [mine - other for mine, other in zip(ours, theirs, strict=True)]
    spread = statistics.stdev(gaps) / math.sqrt(len(gaps))
    return statistics.fmean(gaps), STUDENT.get(len(gaps), 1.96) * spread


def main() -> None:
    """Choose the rivals, play the rounds, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=6, help="of all contenders, at least 2")
    parser.add_argument("--seconds", type=float, default=20.0, help="in which conversations begin, a round")
    parser.add_argument("--load", type=float, default=1.0, help="rate, of the default one")
    parser.add_argument("--threads", type=int, default=2, help="that compute")
    parser.add_argument("--json", type=Path, help="where the result goes as well")
    parser.add_argument(
        "--rivals", type=setting_of, nargs="+", help="fixed settings, as 128x64 (tokens x sequences)"
    )
    options = parser.parse_args()
    logging.disable(logging.INFO)
    rivals = options.rivals or best_of_grid(options.seconds, HARDER * options.load, options.threads)[:2]
    settings = [Setting(), *rivals]
    plays = [contender(setting, options.threads) for setting in settings]
    for play in plays:
        play.run(work(options.seconds / 2, options.load, 0))  # warms up, and learns
    goodput: dict[str, list[float]] = {setting.name: [] for setting in settings}
    for number in range(1, options.rounds + 1):
        for setting, play in zip(settings, plays, strict=True):
            score = play.run(work(options.seconds, options.load, number))
            goodput[setting.name].append(score.goodput)
            print(
                f"round {number}  {setting.name:28} goodput {score.goodput:6.1%} of {score.offered}, "
                f"{score.tokens_per_second:5.0f} tokens/s, predictions off by {score.prediction_error:.1%}",
                flush=True,
            )
    result: dict[str, object] = {"goodput": goodput, "load": options.load, "rounds": options.rounds}
    for rival in rivals:
        mean, half = difference(goodput[settings[0].name], goodput[rival.name])
        print(f"target less {rival.name}: {mean:+.1%} +- {half:.1%}")
        result[rival.name] = {"difference": mean, "half_interval": half}
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
