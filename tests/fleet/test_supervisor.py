"""A cluster brought to what its file says, over a Ray cluster that is played."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ridgeline.cli.cluster import _checked
from ridgeline.cli.main import app
from ridgeline.fleet import ray_process
from ridgeline.fleet.config import FleetError, load_fleet
from ridgeline.fleet.keeper import Report, Settings
from ridgeline.fleet.ray_process import Needs, RayLost
from ridgeline.fleet.supervisor import FollowedFile, Supervisor, Wish, wish_of

FILE = """
models: [{name: qwen}]
regions:
  - name: us
    clusters:
      - {name: us-a, model: qwen, ray: auto, replicas: 3, hardware: h100, serve: SERVE}
      - {name: us-b, model: qwen}
"""
DOORS = ["http://10.0.0.1:8000", "http://10.0.0.2:8000"]


class PlayedRay:
    """A Ray cluster on which everything is done at once."""

    def __init__(self) -> None:
        self.replicas: dict[str, Report | None] = {}
        self.told: dict[str, tuple[Settings, Needs]] = {}
        self.lost = False
        self.connections = 0
        self.dies_at_once = False
        self.starts: list[str] = []

    def connect(self, address: str) -> "PlayedRay":
        assert address == "auto"
        self._reach()
        self.connections += 1
        return self

    def present(self, prefix: str) -> Mapping[str, Report | None]:
        self._reach()
        return {name: report for name, report in self.replicas.items() if name.startswith(prefix)}

    def start(self, name: str, settings: Settings, needs: Needs) -> None:
        self._reach()
        self.told[name] = settings, needs
        self.starts.append(name)
        if not self.dies_at_once:
            self.replicas[name] = Report("ready", "10.0.0.4", "http://10.0.0.4:1")

    def stop(self, name: str) -> None:
        self._reach()
        self.replicas[name] = Report("ended", "10.0.0.4")

    def remove(self, name: str) -> None:
        self._reach()
        del self.replicas[name]

    def close(self) -> None:
        pass

    def _reach(self) -> None:
        if self.lost:
            raise RayLost("nobody is there")


def write(path: Path, serve: str = "{}", replicas: int = 3) -> Path:
    path.write_text(FILE.replace("SERVE", serve).replace("replicas: 3", f"replicas: {replicas}"))
    return path


def wish(path: Path, token: str | None = None) -> Wish:
    return wish_of(load_fleet(path), "us-a", DOORS, token)


def settle(supervisor: Supervisor, now: float) -> float:
    """Look and act until all is as wished; the time then."""
    for _ in range(100):
        supervisor.look(now)
        if supervisor.is_done(now):
            return now
        supervisor.act(now)
        now += 1.0
    raise AssertionError("never done")


def test_a_replica_is_told_what_the_file_says(tmp_path: Path) -> None:
    serve = '{kv-memory: 20GiB, max-batch: 64, public-metrics: true, site: ["temperature=0.7", "top-p=0.9"]}'
    one = wish(write(tmp_path / "fleet.yaml", serve), "a-secret")
    assert " ".join(one.settings.arguments) == (
        "qwen --device cuda --kv-memory 20GiB --max-batch 64 --public-metrics --site temperature=0.7 "
        "--site top-p=0.9 --register http://10.0.0.1:8000 --register http://10.0.0.2:8000 "
        "--region us --cluster us-a"
    )
    assert one.needs == Needs(cpus=1, gpus=1) and one.address == "auto"
    other = wish(write(tmp_path / "fleet.yaml", "{device: cpu, threads: 6, model: /models/q, data-dir: /d}"))
    assert other.settings.arguments[:5] == ("qwen=/models/q", "--device", "cpu", "--threads", "6")
    assert other.settings.data_dir == "/d" and "/d" not in other.settings.arguments
    assert other.needs == Needs(cpus=6, gpus=0)
    made_up = wish(write(tmp_path / "fleet.yaml", '{device: "simulated:h100", random-weights: /q.json}'))
    assert made_up.settings.arguments[:4] == ("--device", "simulated:h100", "--random-weights", "/q.json")
    assert made_up.needs == Needs(cpus=1, gpus=0)


def test_only_settings_make_a_replica_another(tmp_path: Path) -> None:
    file = tmp_path / "fleet.yaml"
    first = wish(write(file)).wanted
    assert wish(write(file, replicas=5)).wanted == replace(first, replicas=5)
    assert wish(write(file, "{max-batch: 8}")).wanted.settings != first.settings
    assert wish(write(file), "a-secret").wanted.settings != first.settings


def test_it_comes_to_what_the_file_says_and_stays_there(tmp_path: Path) -> None:
    ray, file = PlayedRay(), tmp_path / "fleet.yaml"
    supervisor = Supervisor(wish(write(file)), ray.connect)
    now = settle(supervisor, 0.0)
    assert len(ray.replicas) == 3
    assert [settings.folder for settings, _ in ray.told.values()] == ["us-a-0", "us-a-1", "us-a-2"]
    first = dict(ray.replicas)
    again = Supervisor(wish(file), ray.connect)
    now = settle(again, now)
    assert ray.replicas == first and len(ray.starts) == 3, "run again it finds them"
    again.wish = wish(write(file, replicas=1))
    now = settle(again, now)
    assert list(ray.replicas) == list(first)[:1]
    again.wish = wish(write(file, "{max-batch: 8}", replicas=2))
    settle(again, now)
    assert len(ray.replicas) == 2 and not ray.replicas.keys() & first.keys()


def test_a_cluster_that_is_lost_and_comes_again_gets_its_replicas(tmp_path: Path) -> None:
    ray = PlayedRay()
    supervisor = Supervisor(wish(write(tmp_path / "fleet.yaml")), ray.connect)
    now = settle(supervisor, 0.0)
    ray.lost, ray.replicas = True, {}
    for _ in range(3):
        with pytest.raises(RayLost):
            supervisor.look(now)
    ray.lost = False
    settle(supervisor, now + 60.0)
    assert len(ray.replicas) == 3 and ray.connections == 2


def test_what_ends_as_soon_as_it_is_placed_is_placed_again_after_pauses(tmp_path: Path) -> None:
    ray = PlayedRay()
    ray.dies_at_once = True
    supervisor = Supervisor(wish(write(tmp_path / "fleet.yaml", replicas=1)), ray.connect)
    for now in range(100):
        supervisor.look(float(now))
        supervisor.act(float(now))
    assert 6 <= len(ray.starts) <= 9


def test_the_file_is_followed_and_a_wrong_one_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path / "fleet.yaml")
    follow = FollowedFile(file, wish(file), lambda fleet: wish_of(fleet, "us-a", DOORS, None))
    assert follow() is None
    write(file, "{max-batsh: 8}")
    assert follow() is None
    assert "did you mean 'max-batch'?; the cluster stays as it was" in caplog.text
    file.write_text(file.read_text().replace("max-batsh", "max-batch").replace("ray: auto", 'ray: "h:1"'))
    assert follow() is None
    assert "ray was auto: end this command before that is changed" in caplog.text
    file.unlink()
    assert follow() is None
    write(file, "{max-batch: 8}", replicas=4)
    found = follow()
    assert found is not None and found.wanted.replicas == 4
    assert follow() is None


@pytest.mark.parametrize(
    ("serve", "sentence"),
    [
        ("{max-batch: 0}", "cluster 'us-a': serve: Invalid value for '--max-batch'"),
        ("{kv-memory: much}", "'much' is not an amount of memory"),
        ("{device: gpu}", "'gpu' is no device; there are cpu, cuda"),
        ("{dtype: int8}", "--dtype: cuda does not compute in 'int8'"),
    ],
)
def test_values_are_checked_as_serve_will_check_them(serve: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(FleetError) as error:
        _checked(load_fleet(write(tmp_path / "fleet.yaml", serve)), "us-a", DOORS, None)
    assert sentence in str(error.value)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("us-c", "there is no cluster 'us-c'; there are: us-a, us-b"),
        ("us-b", "cluster 'us-b' is not placed by Ray: it lacks the key ray, which us-a has"),
        ("us-a", "Ray is not installed here: pip install 'ridgeline[ray]'"),
    ],
)
def test_what_cannot_be_done_is_told(
    name: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_process.importlib.util, "find_spec", lambda _: None)
    file = write(tmp_path / "fleet.yaml")
    result = CliRunner().invoke(app, ["cluster", "status", str(file), "--cluster", name])
    assert result.exit_code == 1
    assert sentence in str(result.exception)
