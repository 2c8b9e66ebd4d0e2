"""Who measures when: every row in turns, one contender at a time, the others stopped."""

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cpu.children import ChildError, Worker
from cpu.contenders import Contender, Setting
from cpu.machine import wait_for_quiet
from cpu.rows import Row, Task

OFFLINE_SHARE = 0.5
"""Of all time, that repetitions without servers may take."""


class Clock:
    """Seconds since the start, of those there are."""

    def __init__(self, total_seconds: float) -> None:
        self.total_seconds = total_seconds
        self._started = time.monotonic()

    def elapsed(self) -> float:
        """Seconds."""
        return time.monotonic() - self._started

    def allows(self, more_seconds: float, share: float = 1.0) -> bool:
        """Whether so much more fits."""
        return self.elapsed() + more_seconds <= share * self.total_seconds


class Turns:
    """Takes all samples.

    Attributes:
        samples: figures by row name, contender and repetition.
        ceilings: of the machine, one for each repetition.
        failures: in words.
        disturbed: measurements that began while others computed.
    """

    def __init__(
        self,
        contenders: Sequence[Contender],
        rows: Sequence[Row],
        setting: Setting,
        clock: Clock,
        quiet_seconds: float,
        tell: Callable[[str], None],
    ) -> None:
        self.contenders = list(contenders)
        self.rows = rows
        self.clock = clock
        self.samples: dict[str, dict[str, list[dict[str, Any]]]] = {row.name: {} for row in rows}
        self.ceilings: list[dict[str, float]] = []
        self.failures: list[str] = []
        self.disturbed = 0
        self._setting = setting
        self._quiet_seconds = quiet_seconds
        self._tell = tell
        self._measurer: Worker | None = None

    def offline(self, repetitions: int) -> None:
        """Rows without a server."""
        tasks = self._tasks(lambda task: task.offline)
        if not tasks:
            return
        ready = [each for each in self.contenders if self._succeeds(each, "its start", each.enter)]
        for each in ready:
            each.pause()
        # A round that is not counted: kernels are made, files and caches are read.
        largest = {task.kind: task for task in sorted(tasks, key=lambda task: task.sequences)}
        self._rounds(ready, list(largest.values()), range(-1, 0), 1.0)
        self._rounds(ready, tasks, range(repetitions), OFFLINE_SHARE)
        for each in ready:
            each.leave()

    def online(self, repetitions: int) -> None:
        """Servers: how long they take to start, then chats."""
        tasks = self._tasks(lambda task: task.kind in ("chats", "streams"))
        start = self._tasks(lambda task: task.kind == "start")
        if not tasks and not start:
            return
        serving = [each for each in self.contenders if each.serves]
        up = [each for each in serving if self._start(each, repetitions if start else 0)]
        self._rounds(up, tasks, range(repetitions), 1.0)
        for each in up:
            each.leave()

    def end(self) -> None:
        """Leave nothing running."""
        for each in self.contenders:
            each.leave()
        if self._measurer is not None:
            self._measurer.stop()

    def client_shares(self) -> dict[str, float]:
        """Of a core: the most that the load generator took beside each contender."""
        shares: dict[str, float] = {}
        for taken in self.samples.values():
            for name, each in taken.items():
                found = [sample["client_share"] for sample in each if "client_share" in sample]
                if found:
                    shares[name] = max(*found, shares.get(name, 0.0))
        return shares

    def _tasks(self, wanted: Callable[[Task], bool]) -> list[Task]:
        return list(dict.fromkeys(row.task for row in self.rows if wanted(row.task)))

    def _start(self, each: Contender, repetitions: int) -> bool:
        """Start its server so often and once more, the first not counted; slow ones start once."""
        times = 1 if each.slow_start else repetitions + 1
        for number in range(times):
            each.leave()
            seconds = self._seconds_to_serve(each)
            if seconds is None:
                return False
            if repetitions and (number or each.slow_start):
                self._note(Task("start"), each, max(0, number - 1), {"start_seconds": seconds})
        each.pause()
        return True

    def _seconds_to_serve(self, each: Contender) -> float | None:
        self._wait_for_quiet()
        try:
            seconds = each.serve()
        except (ChildError, OSError) as error:
            self._fail(each, "its server", error)
            return None
        self._tell(f"{each.name}: {seconds:.2f} s to the first token")
        return seconds

    def _rounds(
        self, contenders: list[Contender], tasks: Sequence[Task], numbers: range, share: float
    ) -> None:
        """Do every task in every round; the order of the contenders changes."""
        longest = 0.0
        for number in numbers:
            if number > 0 and not self.clock.allows(longest, share):
                self._tell(f"repetitions from {number + 1} on are left out: they would end too late")
                return
            began = time.monotonic()
            if number >= 0:
                self._measure_ceilings()
            for index, task in enumerate(tasks):
                shift = (number + index) % max(1, len(contenders))
                for each in contenders[shift:] + contenders[:shift]:
                    if each in contenders:  # it may have failed since
                        self._turn(contenders, each, task, number)
            longest = max(longest, time.monotonic() - began)

    def _turn(self, contenders: list[Contender], each: Contender, task: Task, number: int) -> None:
        self._wait_for_quiet()
        with _running(each):
            try:
                figures = each.offline(task) if task.offline else each.online(task, _seed(task, number))
            except (ChildError, OSError, ValueError) as error:
                self._fail(each, f"{task.kind} of {task.sequences}", error)
                if task.kind != "prefill" or number < 0:
                    contenders.remove(each)
                return
        if number >= 0:
            self._note(task, each, number, dict(figures))

    def _note(self, task: Task, each: Contender, number: int, figures: dict[str, Any]) -> None:
        """Keep figures for all rows that come of the task."""
        for row in self.rows:
            if row.task == task:
                taken = self.samples[row.name].setdefault(each.name, [])
                taken.append({"repetition": number, **figures})
                self._tell(f"{row.name}, {each.name}: {figures[row.metric]:.4g}")

    def _measure_ceilings(self) -> None:
        if self._measurer is None:
            program = Path(__file__).with_name("ceilings.py")
            self._measurer = Worker([sys.executable, program], self._setting.logs / "ceilings.log")
            self._measurer.answer(60.0)
        self._wait_for_quiet()
        self._measurer.resume()
        try:
            self.ceilings.append(self._measurer.ask({"threads": self._setting.threads}))
        except ChildError as error:
            self.failures.append(f"ceilings: {error}")
        self._measurer.pause()

    def _wait_for_quiet(self) -> None:
        if not wait_for_quiet(self._quiet_seconds):
            self.disturbed += 1

    def _succeeds(self, each: Contender, what: str, action: Callable[[], None]) -> bool:
        try:
            action()
        except (ChildError, OSError) as error:
            self._fail(each, what, error)
            return False
        return True

    def _fail(self, each: Contender, what: str, error: Exception) -> None:
        self.failures.append(f"{each.name}, {what}: {error}")
        self._tell(self.failures[-1])


def _seed(task: Task, number: int) -> int:
    """The same for all contenders, and another for every load: nothing is in a cache already."""
    return 1000 * number + 2 * task.sequences + (task.kind == "streams")


@contextmanager
def _running(each: Contender) -> Any:
    each.resume()
    try:
        yield
    finally:
        each.pause()
