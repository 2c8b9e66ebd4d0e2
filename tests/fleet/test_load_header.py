"""The header by which a replica tells how full it is."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ridgeline.protocol.load import ReplicaLoad

COUNT = st.integers(0, 10**9)


@given(COUNT, COUNT, COUNT, st.integers(0, 10_000), COUNT)
def test_it_is_read_as_it_was_written(running: int, slots: int, waiting: int, held: int, tokens: int) -> None:
    load = ReplicaLoad(running, slots, waiting, held / 10_000, tokens, 1.5, cache_log=tokens)
    assert ReplicaLoad.parse(load.header()) == load
    assert ReplicaLoad.parse(load.header().partition("; cache_log")[0]) == replace(load, cache_log=0)


@pytest.mark.parametrize(
    "header",
    [
        "",
        "running=1",
        "running=x; slots=1; waiting=0; kv_held=0; kv_tokens=0; wait_seconds=0",
        "running=-1; slots=1; waiting=0; kv_held=0; kv_tokens=0; wait_seconds=0",
        "running=1; slots=1; waiting=0; kv_held=nan; kv_tokens=0; wait_seconds=0",
        "running=1; slots=1; waiting=0; kv_held=0; kv_tokens=inf; wait_seconds=0",
        ";" * 100_000,
    ],
)
def test_nonsense_is_no_load(header: str) -> None:
    assert ReplicaLoad.parse(header) is None
