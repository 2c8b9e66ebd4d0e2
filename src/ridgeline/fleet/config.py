"""`fleet.yaml`: which models, in which regions and clusters, and how far those are apart."""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ridgeline.protocol.request import PRIORITIES
from ridgeline.roofline import find_hardware

SERVE_KEYS = (
    "model", "random-weights", "device", "dtype", "kv-dtype", "kv-memory", "kv-policy", "kv-host-memory",
    "kv-disk", "shared-prefix", "max-batch", "max-batch-tokens", "itl-target", "max-context", "max-waiting",
    "draft-tokens", "threads", "allowed-host", "allowed-origin", "public-metrics", "data-dir", "site",
    "drain-seconds", "log-level",
)  # fmt: skip
"""What a replica on Ray may be told: options of `ridgeline serve`, and `model`, where its model comes from.
The other options say who and where it is, which is not the same for any two."""


class FleetError(Exception):
    """The file cannot be used; the message says where and why in one sentence."""


class _Strict(BaseModel):
    """Unknown keys are errors that name the nearest known one."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        known = [field.alias or name for name, field in cls.model_fields.items()]
        _check_known(value, known)
        return value


def _check_known(keys: Iterable[object], known: Iterable[str]) -> None:
    known = list(known)
    for key in keys:
        if key not in known:
            near = get_close_matches(str(key), known, 1, 0.5)
            hint = f"; did you mean '{near[0]}'?" if near else f"; there are {', '.join(known)}"
            raise ValueError(f"unknown key '{key}'{hint}")


Option = bool | int | float | str
Name = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[\w./:-]+$")]


class ModelEntry(_Strict):
    """A model of the fleet.

    Attributes:
        name: unique.
        class_: `class`, what may be asked for instead of the name.
        smaller: the model that answers where this one is full, for those who consent.
    """

    name: Name
    class_: Name | None = Field(None, alias="class")
    smaller: Name | None = None


class Cluster(_Strict):
    """Replicas in one place that serve one model.

    Attributes:
        name: unique in the fleet.
        model: one of the fleet's.
        served_as: what its servers call the model, where that is another name.
        engine: `ridgeline`, or what else speaks OpenAI's API.
        endpoints: addresses of replicas that are listed.
        slots: sequences that each takes at once; what it tells itself counts more.
        api_key_env: environment variable with the key for the endpoints.
        hardware: of the cost model's catalogue. How fast a replica is believed to be until its answers
            tell, and on Ray which device it computes on.
        ray: address of the Ray cluster, or `auto` for the one on this machine: its replicas are placed there
            by `ridgeline cluster up`.
        replicas: how many of them.
        serve: what they are told: options of `ridgeline serve` without their dashes, and `model`.
    """

    name: Name
    model: Name
    served_as: Name | None = None
    engine: Literal["ridgeline", "vllm", "sglang", "tgi", "llama.cpp", "openai"] = "ridgeline"
    endpoints: tuple[str, ...] = ()
    slots: int = Field(16, ge=1, le=100_000)
    api_key_env: str | None = None
    hardware: str | None = None
    ray: str | None = None
    replicas: int = Field(1, ge=0, le=10_000)
    serve: Mapping[str, Option | tuple[Option, ...]] = Field(default_factory=dict)

    @property
    def device(self) -> str:
        """That its replicas on Ray compute on: what `serve` says, else the GPU where `hardware` is one."""
        own = self.serve.get("device")
        return str(own) if own else "cpu" if self.hardware in (None, "cpu") else "cuda"

    @property
    def asked(self) -> tuple[object, ...]:
        """What a front door goes by. The rest may change under replicas that stay."""
        return self.name, self.model, self.served_as, self.engine, self.slots, self.api_key_env

    @field_validator("hardware")
    @classmethod
    def _check_hardware(cls, value: str | None) -> str | None:
        return None if value is None else find_hardware(value).name

    @field_validator("ray")
    @classmethod
    def _check_ray(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"auto|[\w.-]+:\d{1,5}|\[[\da-fA-F:]+\]:\d{1,5}", value):
            raise ValueError(f"'{value}' is no address of a Ray cluster: write auto, or HOST:PORT")
        return value

    @field_validator("serve")
    @classmethod
    def _check_serve(cls, value: Mapping[str, object]) -> Mapping[str, object]:
        _check_known(value, SERVE_KEYS)
        return value

    @model_validator(mode="after")
    def _check_placing(self) -> "Cluster":
        if self.ray is None:
            for key in ("replicas", "serve"):
                if key in self.model_fields_set:
                    raise ValueError(f"{key} is for replicas that are placed by Ray: it needs the key ray")
            return self
        if self.endpoints:
            raise ValueError("endpoints are listed and ray's replicas are placed: a cluster has one of both")
        if self.engine != "ridgeline":
            raise ValueError(f"engine is '{self.engine}', and Ray places replicas of ridgeline only")
        name = self.served_as or self.model
        if "model" in self.serve and ("random-weights" in self.serve or "/" in name):
            other = "random-weights" if "random-weights" in self.serve else f"a name with a slash, '{name}'"
            raise ValueError(f"serve.model and {other}: there can be one of both")
        if self.device.startswith("cuda:"):
            raise ValueError(f"serve.device is '{self.device}', but Ray chooses the GPU: write cuda")
        if self.device == "cpu" and "threads" not in self.serve:
            raise ValueError("a replica on CPUs needs serve.threads: how many cores is it to have?")
        return self

    @field_validator("endpoints")
    @classmethod
    def _check_endpoints(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            if not url.startswith(("http://", "https://")):
                raise ValueError(f"'{url}' is no address of http or https")
        return tuple(url.rstrip("/").removesuffix("/v1") for url in value)


class Region(_Strict):
    """A place with clusters in it."""

    name: Name
    clusters: tuple[Cluster, ...] = ()


class Link(_Strict):
    """How far two regions are apart.

    Attributes:
        between: the two.
        rtt_ms: there and back, in milliseconds.
        gbps: of the way, in gigabits per second. For who plans; no request is placed by it.
    """

    between: tuple[Name, Name]
    rtt_ms: float = Field(ge=0, le=10_000)
    gbps: float | None = Field(None, gt=0, le=1_000_000)


class Capacity(_Strict):
    """How long anybody is kept waiting, and how many may wait.

    Attributes:
        max_wait_seconds: who would wait for longer is refused.
        max_waiting: requests that may wait.
        priorities: the classes that requests may ask for, the most urgent first. There are these and no
            others, in this order.
    """

    max_wait_seconds: float = Field(20.0, gt=0, le=3600)
    max_waiting: int = Field(10_000, ge=0, le=1_000_000)
    priorities: tuple[str, ...] = tuple(PRIORITIES)

    @field_validator("priorities")
    @classmethod
    def _check_priorities(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if value != tuple(PRIORITIES):
            raise ValueError(f"the classes are [{', '.join(PRIORITIES)}], not [{', '.join(value)}]")
        return value


class Fleet(_Strict):
    """The whole file."""

    models: tuple[ModelEntry, ...] = Field(min_length=1)
    regions: tuple[Region, ...] = Field(min_length=1)
    links: tuple[Link, ...] = ()
    capacity: Capacity = Field(default_factory=lambda: Capacity.model_validate({}))

    @model_validator(mode="after")
    def _check_names(self) -> "Fleet":
        models = [model.name for model in self.models]
        regions = [region.name for region in self.regions]
        clusters = [cluster.name for region in self.regions for cluster in region.clusters]
        for kind, names in (("model", models), ("region", regions), ("cluster", clusters)):
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ValueError(f"two {kind}s are called '{sorted(twice)[0]}'")
        for model in self.models:
            if model.smaller is not None and model.smaller not in models:
                raise ValueError(f"'{model.smaller}', smaller than '{model.name}', is not among the models")
            if model.name in self.smaller(model.name):
                raise ValueError(f"model '{model.name}' is smaller than itself")
        for region in self.regions:
            for cluster in region.clusters:
                if cluster.model not in models:
                    raise ValueError(
                        f"cluster '{cluster.name}' serves '{cluster.model}', which is not among the models: "
                        f"{', '.join(models)}"
                    )
        for link in self.links:
            for name in link.between:
                if name not in regions:
                    raise ValueError(f"a link begins or ends in '{name}', which is not among the regions")
        return self

    def smaller(self, name: str) -> tuple[str, ...]:
        """Models that may answer instead of this one, one smaller than the other."""
        following = {model.name: model.smaller for model in self.models}
        found: list[str] = []
        while (least := following.get(found[-1] if found else name)) is not None and least not in found:
            found.append(least)
        return tuple(found)

    def round_trips(self) -> dict[tuple[str, str], float]:
        """Seconds between regions, by pair in alphabetical order."""
        trips: dict[tuple[str, str], float] = {}
        for link in self.links:
            first, second = sorted(link.between)
            trips[first, second] = link.rtt_ms / 1000
        return trips


def load_fleet(path: Path) -> Fleet:
    """Read and check a file. Raises FleetError."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise FleetError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise FleetError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise FleetError(f"{path} must have the keys models and regions")
    try:
        return Fleet.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        reason, value = first["msg"].removeprefix("Value error, "), first["input"]
        if first["type"] != "value_error" and isinstance(value, bool | int | float | str):
            reason += f", and is {value!r}"
        raise FleetError(f"{path}: {where}: {reason}") from error


def version_of(path: Path) -> tuple[int, int] | None:
    """Changes when the file does; None while it is not there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ino
