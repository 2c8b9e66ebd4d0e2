"""fleet.yaml: what it may hold, and what it says of what it may not."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from ridgeline.cli.config import key_of
from ridgeline.cli.main import app
from ridgeline.fleet.config import SERVE_KEYS, Cluster, Fleet, FleetError, load_fleet
from ridgeline.fleet.core.rates import FIRST_RATE, first_rate

WHOLE = """
models:
  - {name: smollm2-135m, class: small}
regions:
  - name: us-east
    clusters:
      - {name: us-east-a, hardware: h100, model: smollm2-135m, replicas: 4, ray: "auto"}
      - {name: us-east-b, engine: vllm, model: smollm2-135m, endpoints: ["http://10.0.0.5:8000"]}
  - name: eu-west
links: [{between: [us-east, eu-west], rtt_ms: 80, gbps: 10}]
capacity: {max_wait_seconds: 20, priorities: [interactive, batch]}
"""


def read(text: str, folder: Path) -> Fleet:
    file = folder / "fleet.yaml"
    file.write_text(text)
    return load_fleet(file)


def with_cluster(**entries: Any) -> str:
    """The file with the first cluster changed; None takes a key away."""
    content = yaml.safe_load(WHOLE)
    cluster = content["regions"][0]["clusters"][0] | entries
    content["regions"][0]["clusters"][0] = {key: each for key, each in cluster.items() if each is not None}
    return yaml.safe_dump(content)


def test_every_key_is_known(tmp_path: Path) -> None:
    fleet = read(WHOLE, tmp_path)
    placed, listed = fleet.regions[0].clusters
    assert (placed.hardware, placed.ray, placed.replicas, placed.device) == ("h100", "auto", 4, "cuda")
    assert listed.ray is None and listed.hardware is None
    assert fleet.links[0].gbps == 10
    assert fleet.capacity.priorities == ("interactive", "batch")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (with_cluster(hardwear="h100"), "unknown key 'hardwear'; did you mean 'hardware'?"),
        (with_cluster(hardware="h1000"), "hardware: hardware 'h1000' is unknown; there is a100-80, h100"),
        (with_cluster(replicas=-1), "replicas: Input should be greater than or equal to 0, and is -1"),
        (with_cluster(replicas=20_000), "replicas: Input should be less than or equal to 10000"),
        (
            with_cluster(ray="http://head"),
            "ray: 'http://head' is no address of a Ray cluster: write",
        ),
        (with_cluster(ray=None), "replicas is for replicas that are placed by Ray: it needs the key ray"),
        (with_cluster(ray=None, replicas=None, serve={"dtype": "auto"}), "serve is for replicas that are"),
        (with_cluster(endpoints=["http://h:1"]), "a cluster has one of both"),
        (with_cluster(engine="vllm"), "engine is 'vllm', and Ray places replicas of ridgeline only"),
        (with_cluster(serve={"max_batch": 4}), "serve: unknown key 'max_batch'; did you mean 'max-batch'?"),
        (with_cluster(serve={"port": 80}), "serve: unknown key 'port'; "),
        (with_cluster(serve={"max-batch": {"a": 1}}), "serve.max-batch"),
        (with_cluster(serve={"device": "cuda:1"}), "serve.device is 'cuda:1', but Ray chooses"),
        (with_cluster(serve={"device": "cpu"}), "a replica on CPUs needs serve.threads"),
        (with_cluster(hardware=None), "a replica on CPUs needs serve.threads"),
        (with_cluster(serve={"model": "x", "random-weights": "/x.json"}), "serve.model and random-weights"),
        (with_cluster(served_as="a/b", serve={"model": "x"}), "serve.model and a name with a slash, 'a/b'"),
        (WHOLE.replace("gbps: 10", "gbps: 0"), "links.0.gbps: Input should be greater than 0"),
        (WHOLE.replace("gbps", "gpbs"), "unknown key 'gpbs'; did you mean 'gbps'?"),
        (
            WHOLE.replace("[interactive, batch]", "[batch]"),
            "the classes are [interactive, batch], not [",
        ),
    ],
)
def test_what_it_may_not_hold_is_named(text: str, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(FleetError, match=re.escape(sentence)):
        read(text, tmp_path)


def test_the_device_is_the_hardware_unless_told_otherwise() -> None:
    def device(**entries: Any) -> str:
        return Cluster.model_validate({"name": "a", "model": "m", "ray": "auto", **entries}).device

    assert device(hardware="h100") == "cuda"
    assert device(hardware="cpu", serve={"threads": 4}) == "cpu"
    assert device(hardware="h100", serve={"device": "simulated:h100"}) == "simulated:h100"


def test_a_front_door_minds_what_it_goes_by_and_nothing_else() -> None:
    entries = {"name": "a", "model": "m", "ray": "auto", "hardware": "h100"}
    one = Cluster.model_validate(entries)
    assert Cluster.model_validate({**entries, "replicas": 9, "serve": {"max-batch": 4}}).asked == one.asked
    assert Cluster.model_validate({**entries, "served_as": "n"}).asked != one.asked


def test_serve_takes_the_options_of_serve_that_replicas_have_in_common() -> None:
    command = typer.main.get_command(app).commands["serve"]  # type: ignore[attr-defined]
    options = {key_of(each) for each in command.params if each.name != "help"}
    of_each = {
        *("models", "host", "port", "register", "region", "cluster", "advertise"),
        *("fleet-token", "api-key", "config"),
        "kv-disk-dir",  # it is in the folder of each
    }
    assert {*SERVE_KEYS} - {"model"} == options - of_each


def test_a_known_model_on_known_hardware_is_believed_to_be_as_fast_as_it_is() -> None:
    assert first_rate("smollm2-135m", None) == first_rate("unknown", "h100") == FIRST_RATE
    rates = [first_rate("qwen3-8b", hardware) for hardware in ("cpu", "h100", "b200")]
    assert rates == sorted(rates)
    assert rates[0] < 100 and rates[1] > 10_000
