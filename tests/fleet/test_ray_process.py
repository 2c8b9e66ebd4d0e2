"""Ray in a process of its own, without a Ray cluster: what is told of one that is not there."""

import multiprocessing
import socket
import time

import pytest

from ridgeline.fleet import ray_process
from ridgeline.fleet.ray_process import RayLost, RayMissing, RayProcess


def test_where_nobody_listens_is_told_at_once() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and does not listen
        began = time.monotonic()
        with pytest.raises(RayLost, match="no head of a cluster listens there"):
            RayProcess(f"127.0.0.1:{taken.getsockname()[1]}")
        assert time.monotonic() - began < 2.0


def test_who_listens_there_but_is_not_ray_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_process, "CONNECT_SECONDS", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        with pytest.raises(RayLost, match=r"it did not answer in 2 s|its connection has ended"):
            RayProcess(f"127.0.0.1:{stranger.getsockname()[1]}")
        assert not multiprocessing.active_children(), "its process is gone"


def test_where_ray_is_not_installed_it_is_told_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_process.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(RayMissing, match=r"pip install 'ridgeline\[ray\]'"):
        RayProcess("auto")
