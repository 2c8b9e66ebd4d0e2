"""Simulated replicas, each a process."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from server_process import Served, serving, write_config


@pytest.fixture
def replicas(tmp_path: Path) -> Iterator[Callable[..., list[Served]]]:
    """Start so many simulated replicas of the model `sim`."""
    config = write_config(tmp_path)
    with ExitStack() as stack:

        def start(count: int, *arguments: str) -> list[Served]:
            return [
                stack.enter_context(
                    serving(
                        *("--random-weights", str(config), "--device", "simulated:h100"),
                        *arguments,
                        data_dir=tmp_path / f"replica{i}-{len(arguments)}",
                        seconds=100,
                    )
                )
                for i in range(count)
            ]

        yield start
