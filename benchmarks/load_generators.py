"""Does `ridgeline bench` say the same of a server as another public load generator?

The other one is vLLM's `vllm bench serve`. Both are put on the same server in turn, with prompts of
the same lengths that are new in every run, answers of the same lengths, and the same users or the same
rate. Answers differ in length, as those of one length keep the users in step, and TTFT then depends on
how the first of them happened to fall together. The server is a simulated H100 with an 8B model, whose
times hardly vary, unless --url names another. Goal: medians over all runs within 5 % for throughput, TTFT
and time per output token.

    python benchmarks/load_generators.py --vllm-python /opt/vllm/bin/python --tokenizer FOLDER
        [--repetitions 5] [--scenario "4 users"] [--keep rows.jsonl] [--url URL]

The environment of --vllm-python needs pandas too (vLLM's extra `bench`). --tokenizer is a model's folder,
which vLLM's generator wants even where it counts by the server's usage.
With --keep the runs are appended to a file and those already in it are taken into account, so that a
long measurement can be made in parts.

Two things are made equal. vLLM stretches its Poisson times so that N arrivals take N / rate exactly;
ours are left as drawn, so for ours a seed is taken whose arrivals take that to within half a percent. And
vLLM's TTFT counts from the sending, so ours is held against it by the same definition
(`ttft_from_send_seconds`). vLLM counts the empty first and last chunk of a stream among its gaps, so the
time per output token is compared, not the gaps.
"""

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from ridgeline.bench.wording import words
from ridgeline.bench.workload import poisson_starts

GOAL = 0.05
PROMPT_WORDS = 60
ANSWER_TOKENS = (32, 96)
WARM_UPS = 2
MEASURES = ("output tokens/s", "requests/s", "TTFT mean", "TTFT p50", "TPOT mean", "TPOT p50")
MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
}


@dataclass(frozen=True, slots=True)
class Scenario:
    """Users at once, or requests per second at Poisson times."""

    name: str
    requests: int
    users: int | None = None
    rate: float | None = None


SCENARIOS = (
    Scenario("4 users", 60, users=4),
    Scenario("16 users", 200, users=16),
    Scenario("10 requests/s", 90, rate=10.0),
)


@dataclass(frozen=True, slots=True)
class Row:
    """One run. Times in ms."""

    scenario: str
    generator: str
    figures: dict[str, float]


def prompts(folder: Path, count: int, seed: int) -> Path:
    """A file of prompts that nobody has asked before, for answers of the same lengths in every run."""
    draw, lengths = random.Random(seed), random.Random(0)
    rows = []
    for _ in range(count):
        tokens = lengths.randint(*ANSWER_TOKENS)
        text = " ".join(words(draw, PROMPT_WORDS))
        rows.append({"prompt": text, "max_tokens": tokens, "output_tokens": tokens})
    file = folder / "prompts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def even_seed(rate: float, requests: int, start: int) -> int:
    """The first seed from `start` on whose arrivals take `requests / rate` to within half a percent."""
    wanted = requests / rate
    seed = start
    while abs(list(islice(poisson_starts(rate, seed), requests))[-1] / wanted - 1) > 0.005:
        seed += 1
    return seed


def asked_by_ours(url: str, scenario: Scenario, folder: Path, seed: int) -> dict[str, Any]:
    """The line of JSON of `ridgeline bench`, as a process."""
    file = prompts(folder, scenario.requests + WARM_UPS, seed)
    load = ["--concurrency", str(scenario.users)]
    if scenario.rate is not None:
        load = [
            "--rate",
            str(scenario.rate),
            "--seed",
            str(even_seed(scenario.rate, scenario.requests, seed)),
        ]
    command = [
        sys.executable,
        "-m",
        "ridgeline.cli.main",
        "bench",
        "--url",
        url,
        "--prompts",
        str(file),
        *load,
    ]
    command += [
        "--conversations",
        str(scenario.requests),
        "--warmup",
        str(WARM_UPS),
        "--ignore-eos",
        "--json",
    ]
    line: dict[str, Any] = json.loads(run(command))
    return line


def ours(url: str, scenario: Scenario, folder: Path, seed: int) -> dict[str, float]:
    """Figures of ours; ends the program where they are not to be believed."""
    found = asked_by_ours(url, scenario, folder, seed)
    if found["completed"] != scenario.requests or found["client"]["limited"]:
        sys.exit(f"ours: {found['completed']} of {scenario.requests} completed, client {found['client']}")
    return figures_of(found)


def figures_of(found: dict[str, Any]) -> dict[str, float]:
    """What is compared, of our line of JSON."""
    first, gap = found["ttft_from_send_seconds"], found["tpot_seconds"]
    return dict(
        zip(
            MEASURES,
            (
                found["output_tokens_per_second"],
                found["requests_per_second"],
                *(1000 * value for value in (first["mean"], first["p50"], gap["mean"], gap["p50"])),
            ),
            strict=True,
        )
    )


def vllms(
    url: str, model: str, scenario: Scenario, folder: Path, seed: int, python: Path, tokenizer: Path
) -> dict[str, float]:
    """`vllm bench serve`, as a process."""
    file = prompts(folder, scenario.requests, seed)
    code = (
        "import sys; from vllm.benchmarks.serve import add_cli_args, main;"
        "from vllm.utils.argparse_utils import FlexibleArgumentParser as P;"
        "parser = P(); add_cli_args(parser); main(parser.parse_args(sys.argv[1:]))"
    )
    command = [str(python), "-c", code, "--backend", "openai-chat", "--base-url", url]
    command += ["--endpoint", "/v1/chat/completions", "--model", model, "--tokenizer", str(tokenizer)]
    command += ["--dataset-name", "custom", "--dataset-path", str(file), "--skip-chat-template"]
    command += ["--disable-shuffle", "--custom-output-len", "-1", "--num-prompts", str(scenario.requests)]
    command += ["--num-warmups", str(WARM_UPS), "--ignore-eos", "--temperature", "0", "--seed", str(seed)]
    command += [
        "--save-result",
        "--result-dir",
        str(folder),
        "--result-filename",
        "vllm.json",
        "--disable-tqdm",
    ]
    if scenario.rate is not None:
        command += ["--request-rate", str(scenario.rate)]
    else:
        command += ["--max-concurrency", str(scenario.users)]
    run(command)
    found = json.loads((folder / "vllm.json").read_text())
    if found["completed"] != scenario.requests:
        sys.exit(f"vLLM's: {found['completed']} of {scenario.requests} completed")
    names = ("output_throughput", "request_throughput", "mean_ttft_ms", "median_ttft_ms", "mean_tpot_ms")
    return dict(zip(MEASURES, (*(found[name] for name in names), found["median_tpot_ms"]), strict=True))


def run(command: list[str]) -> str:
    """Its output; ends the program with what it said where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        sys.exit(f"{command[0]} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout


@contextmanager
def server(url: str | None, folder: Path) -> Iterator[tuple[str, str]]:
    """Address and model: of the server named, or of a simulated one of our own."""
    if url is not None:
        yield url, model_of(url)
        return
    config = folder / "sim.json"
    config.write_text(json.dumps(MODEL))
    command = [sys.executable, "-m", "ridgeline.cli.main", "serve", "--port", "0", "--data-dir", str(folder)]
    command += ["--device", "simulated:h100", "--random-weights", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield wait_for(process), "sim"
    finally:
        process.terminate()
        process.wait(30)


def wait_for(process: "subprocess.Popen[str]") -> str:
    """The address that the server announces."""
    url = ""
    assert process.stdout is not None
    for line in process.stdout:
        found = re.search(r"OpenAI-compatible\s+(\S+)/v1", line)
        url = found[1] if found else url
        if "Ctrl-C ends it" in line:
            return url
    sys.exit("the server did not start")


def model_of(url: str) -> str:
    """The first model that a server lists."""
    import httpx

    return str(httpx.get(f"{url}/v1/models").json()["data"][0]["id"])


def kept(file: Path | None) -> list[Row]:
    """Rows of earlier parts."""
    if file is None or not file.exists():
        return []
    return [Row(**json.loads(line)) for line in file.read_text().splitlines()]


def measure(options: argparse.Namespace, scenarios: list[Scenario], rows: list[Row]) -> None:
    """Run both generators in turn, the first one changing from repetition to repetition."""
    with tempfile.TemporaryDirectory() as name, server(options.url, Path(name)) as (url, model):
        folder = Path(name)
        for _ in range(options.repetitions):
            for scenario in scenarios:
                done = sum(row.scenario == scenario.name for row in rows)
                for generator in ("ours", "vLLM's") if done % 4 == 0 else ("vLLM's", "ours"):
                    seed = random.SystemRandom().randrange(2**31)
                    if generator == "ours":
                        figures = ours(url, scenario, folder, seed)
                    else:
                        figures = vllms(
                            url, model, scenario, folder, seed, options.vllm_python, options.tokenizer
                        )
                    rows.append(Row(scenario.name, generator, figures))
                    print(f"{scenario.name}, {generator}: {figures}", file=sys.stderr)
                    if options.keep:
                        with options.keep.open("a") as file:
                            file.write(json.dumps(asdict(rows[-1])) + "\n")


def spread_of(values: list[float]) -> float:
    """Half the distance from the lowest to the highest, by the median."""
    return (max(values) - min(values)) / 2 / statistics.median(values)


def report(rows: list[Row]) -> dict[str, dict[str, dict[str, float]]]:
    """Print a table; medians, spreads and ratios by scenario and measure."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    print("| | runs of each | | ours | vLLM's | ratio | spread, ours | spread, vLLM's |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for scenario in dict.fromkeys(row.scenario for row in rows):
        own, other = (
            [row.figures for row in rows if (row.scenario, row.generator) == (scenario, generator)]
            for generator in ("ours", "vLLM's")
        )
        if not own or not other:
            continue
        for measure in MEASURES:
            a, b = ([figures[measure] for figures in runs] for runs in (own, other))
            medians = statistics.median(a), statistics.median(b)
            ratio = medians[0] / medians[1]
            spreads = spread_of(a), spread_of(b)
            print(
                f"| {scenario} | {len(own)} | {measure} | {medians[0]:,.4g} | {medians[1]:,.4g} |"
                f" {ratio:.3f} | ±{spreads[0]:.1%} | ±{spreads[1]:.1%} |"
            )
            found.setdefault(scenario, {})[measure] = {
                "ours": medians[0],
                "vllm": medians[1],
                "ratio": ratio,
                "spread_ours": spreads[0],
                "spread_vllm": spreads[1],
            }
    return found


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--url", help="a running server; one of our own if not given")
    parser.add_argument("--vllm-python", type=Path, required=True, help="of an environment with vLLM")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a model's folder")
    parser.add_argument("--repetitions", type=int, default=5, help="0 only reports what was kept")
    parser.add_argument("--scenario", choices=[scenario.name for scenario in SCENARIOS])
    parser.add_argument("--keep", type=Path, metavar="FILE")
    options = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    rows = kept(options.keep)
    scenarios = [one for one in SCENARIOS if options.scenario in (None, one.name)]
    if options.repetitions:
        measure(options, scenarios, rows)
    found = report(rows)
    worst = max((abs(m["ratio"] - 1) for figures in found.values() for m in figures.values()), default=None)
    print(f"\nFurthest apart: {worst:.1%}; the goal is {GOAL:.0%}." if worst is not None else "\nNo runs.")
    line = {"prompt_words": PROMPT_WORDS, "answer_tokens": ANSWER_TOKENS, "goal": GOAL, "furthest": worst}
    print(json.dumps({**line, "scenarios": found}))


if __name__ == "__main__":
    main()
