"""Launches compile once for every kind of arguments, and then go the short way."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ridgeline.kernels.cuda import launch as module
from ridgeline.kernels.cuda.launch import OVERLAP, Launch


class Kernel:
    """Takes the place of a kernel of Triton's; notes the launches of either way."""

    arg_names = ("x", "count", "absent", "SIZE", "WIDE", OVERLAP)

    def __init__(self, *, compiles: bool = True) -> None:
        self.long: list[tuple[Any, ...]] = []
        self.short: list[tuple[Any, ...]] = []
        self._compiles = compiles

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*arguments: Any, **options: Any) -> "Compiled | None":
            self.long.append((grid, arguments, options))
            return Compiled(self.short) if self._compiles else None

        return launch


class Compiled:
    def __init__(self, launches: list[tuple[Any, ...]]) -> None:
        self._launches = launches

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return lambda *arguments: self._launches.append((grid, arguments))


@pytest.fixture(params=[80, 90])
def capability(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(module, "JITFunction", Kernel)
    target = SimpleNamespace(backend="cuda", arch=request.param)
    driver = SimpleNamespace(active=SimpleNamespace(get_current_target=lambda: target))
    monkeypatch.setattr(module.triton.runtime, "driver", driver)
    return int(request.param)


def test_the_second_launch_gives_what_the_first_one_did(capability: int) -> None:
    kernel, launch, x = Kernel(), Launch({"WIDE": None, "SIZE": 64}, 4, 2), torch.zeros(32)
    launch(kernel, (7,), x, 5, None)
    launch(kernel, (9, 2), x, 3, None)
    overlaps = capability >= 90
    options: dict[str, Any] = {"SIZE": 64, "WIDE": None, "num_warps": 4, "num_stages": 2}
    if overlaps:
        options |= {OVERLAP: True, "launch_pdl": True}
    assert kernel.long == [((7,), (x, 5, None), options)]
    assert kernel.short == [((9, 2, 1), (x, 3, None, 64, None, overlaps))]


@pytest.mark.parametrize("capability", [90], indirect=True)
def test_other_kinds_of_arguments_are_compiled_apart(capability: int) -> None:
    del capability
    kernel, launch, x = Kernel(), Launch({"SIZE": 64, "WIDE": None}, 4, 2), torch.zeros(32)
    kinds = [
        (x, 5, None),
        (x.half(), 5, None),
        (x[1:], 5, None),
        (x, 1, None),
        (x, 32, None),
        (x, 1 << 31, None),
        (x, 5, x),
    ]
    for _ in range(2):
        for kind in kinds:
            launch(kernel, (1,), *kind)
    assert (len(kernel.long), len(kernel.short)) == (len(kinds), len(kinds))


@pytest.mark.parametrize("capability", [90], indirect=True)
def test_what_was_not_compiled_is_not_kept(capability: int) -> None:
    del capability
    kernel, launch = Kernel(compiles=False), Launch({"SIZE": 64, "WIDE": None}, 4, 2)
    for _ in range(2):
        launch(kernel, (1,), torch.zeros(4), 5, None)
    assert (len(kernel.long), len(kernel.short)) == (2, 0)
