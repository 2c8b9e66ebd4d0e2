"""Fleets of simulated replicas, each a process, behind front doors that are processes."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from server_process import RIDGELINE, Served, clean_environment


@contextmanager
def front_door(file: Path, data_dir: Path, *arguments: str) -> Iterator[Served]:
    """A running `ridgeline fleet serve`, gone afterwards."""
    process = subprocess.Popen(
        [*RIDGELINE, "fleet", "serve", str(file), "--port", "0", "--data-dir", str(data_dir), *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
    served = Served(process)
    try:
        served.wait_until_up(100)
        yield served
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
        served.wait()


def write_fleet(path: Path, clusters: dict[str, list[str]], **more: Any) -> Path:
    """A fleet.yaml with a cluster in each region, of the replicas at these addresses."""
    fleet = {
        "models": [{"name": "sim", "class": "small"}],
        "regions": [
            {"name": region, "clusters": [{"name": f"{region}-a", "model": "sim", "endpoints": urls}]}
            for region, urls in clusters.items()
        ],
        **more,
    }
    path.write_text(yaml.safe_dump(fleet))
    return path
