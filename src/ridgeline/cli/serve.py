"""`ridgeline serve`: one process that serves models over HTTP."""

from pathlib import Path
from typing import Annotated

import typer

from ridgeline.cli.config import Config
from ridgeline.cli.joining import FleetToken, joining_of, with_fleet_key
from ridgeline.cli.logs import Level
from ridgeline.cli.params import ENV_PREFIX, option, parse_api_key, parse_bytes
from ridgeline.cli.site import check_site, site_settings

DEFAULT_MODEL = "smollm2-135m"


def check_device(device: str) -> str:
    """`cpu`, `cuda`, `cuda:N` or `simulated:NAME`.

    Whether there is a GPU is found out by the process that will use it: asking takes torch.
    """
    from ridgeline.engine.options import cuda_index

    if device == "cpu" or cuda_index(device) is not None:
        return device
    kind, _, name = device.partition(":")
    if kind != "simulated" or not name:
        raise typer.BadParameter(
            f"'{device}' is no device; there are cpu, cuda, cuda:N and simulated:NAME, as simulated:h100"
        )
    from ridgeline.roofline import find_hardware

    try:
        find_hardware(name)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    return device


def check_dtype(device: str, dtype: str) -> None:
    """Refuse what the device cannot compute in: for real ones, what their executors can."""
    known = ["float32", "bfloat16"]
    kind, _, name = device.partition(":")
    if kind == "cuda":
        known.append("float16")
    elif kind == "cpu":
        known.append("int8")
    elif kind == "simulated":
        from ridgeline.roofline import find_hardware

        known = list(find_hardware(name).flops_per_second)
    if dtype not in ("auto", *known):
        raise typer.BadParameter(
            f"--dtype: {device} does not compute in '{dtype}'; it has auto, {', '.join(known)}"
        )


def check_kv_dtype(kv_dtype: str) -> str:
    """Refuse what is no dtype at all; what a device can store beside its own dtype, its executor knows."""
    from ridgeline.roofline import DTYPE_BYTES

    if kv_dtype not in ("auto", *DTYPE_BYTES):
        raise typer.BadParameter(f"'{kv_dtype}' is no dtype; there are auto, {', '.join(DTYPE_BYTES)}")
    return kv_dtype


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            envvar=f"{ENV_PREFIX}MODELS",
            help="Names (see ridgeline models), paths, hf:org/name; NAME=MODEL renames.",
            show_default=DEFAULT_MODEL,
        ),
    ] = None,
    random_weights: Annotated[
        list[Path] | None,
        option(
            "--random-weights",
            "Also serve a model of this config.json, with made-up weights.",
            metavar="CONFIG",
        ),
    ] = None,
    host: Annotated[
        str,
        option("--host", "Address to listen on; off the loopback --api-key is needed.", metavar="ADDRESS"),
    ] = "127.0.0.1",
    port: Annotated[int, option("--port", "0 takes a free one.", metavar="PORT", min=0, max=65535)] = 8000,
    device: Annotated[
        str,
        option(
            "--device",
            "cpu; cuda or cuda:N for a GPU; simulated:NAME for the timing of one.",
            metavar="DEVICE",
            callback=check_device,
        ),
    ] = "cpu",
    dtype: Annotated[
        str,
        option(
            "--dtype",
            "auto, float32, bfloat16; float16 on cuda; int8 on the CPU; simulated devices have more.",
            metavar="DTYPE",
        ),
    ] = "auto",
    kv_dtype: Annotated[
        str,
        option(
            "--kv-dtype",
            "Of the KV cache: auto; beside --dtype int8 that is int8, or float16; on cuda also float8.",
            metavar="DTYPE",
            callback=check_kv_dtype,
        ),
    ] = "auto",
    kv_memory: Annotated[
        int | None,
        option(
            "--kv-memory",
            "For KV blocks, per model: 2GiB, 512MB.",
            metavar="SIZE",
            parser=parse_bytes,
            show_default="by free memory",
        ),
    ] = None,
    kv_policy: Annotated[
        str,
        option(
            "--kv-policy",
            "Which cached KV block goes first: price (saves least for its room) or lru.",
            metavar="NAME",
        ),
    ] = "price",
    kv_host_memory: Annotated[
        int | None,
        option(
            "--kv-host-memory",
            "Host memory for copies of KV blocks that leave the device, per model.",
            metavar="SIZE",
            parser=parse_bytes,
            show_default="none",
        ),
    ] = None,
    kv_disk: Annotated[
        int | None,
        option(
            "--kv-disk",
            "Disk space for such copies, per model; they outlive the server.",
            metavar="SIZE",
            parser=parse_bytes,
            show_default="none",
        ),
    ] = None,
    kv_disk_dir: Annotated[
        Path | None,
        option(
            "--kv-disk-dir",
            "Where they are kept.",
            metavar="FOLDER",
            show_default="kv in the data folder",
        ),
    ] = None,
    shared_prefix: Annotated[
        list[Path] | None,
        option(
            "--shared-prefix",
            "File with a system prompt whose KV all keys share; may be repeated.",
            metavar="FILE",
        ),
    ] = None,
    max_batch: Annotated[
        int | None,
        option(
            "--max-batch", "Most sequences in a step.", metavar="N", min=1, show_default="64; on a GPU 256"
        ),
    ] = None,
    max_batch_tokens: Annotated[
        int | None,
        option(
            "--max-batch-tokens",
            "Most tokens in a step.",
            metavar="N",
            min=1,
            show_default="1024; on a GPU 8192",
        ),
    ] = None,
    itl_target: Annotated[
        float | None,
        option(
            "--itl-target",
            "Time between two tokens of an answer that steps are made to keep; 0: as large as allowed.",
            metavar="SECONDS",
            min=0,
            show_default="0.1; on a GPU 0.05",
        ),
    ] = None,
    max_context: Annotated[
        int | None,
        option(
            "--max-context", "Tokens of prompt and answer.", metavar="N", min=2, show_default="the model's"
        ),
    ] = None,
    max_waiting: Annotated[
        int, option("--max-waiting", "Requests that may wait; more are refused.", metavar="N", min=1)
    ] = 256,
    draft_tokens: Annotated[
        int,
        option(
            "--draft-tokens",
            "Tokens of an answer that may be guessed in advance, from what it repeats; on the CPU.",
            metavar="N",
            min=0,
        ),
    ] = 0,
    threads: Annotated[
        int | None, option("--threads", "Compute threads.", metavar="N", min=1, show_default="one per core")
    ] = None,
    api_key: Annotated[
        list[str] | None,
        option("--api-key", "Key, or NAME=KEY; may be repeated.", metavar="KEY", show_default=False),
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        option("--allowed-host", "Further name in the Host header; may be repeated.", metavar="HOST"),
    ] = None,
    allowed_origin: Annotated[
        list[str] | None,
        option("--allowed-origin", "Web page that may call; may be repeated.", metavar="URL"),
    ] = None,
    public_metrics: Annotated[bool, option("--public-metrics", "/metrics needs no key.")] = False,
    data_dir: Annotated[
        Path | None,
        option(
            "--data-dir",
            "Where conversations are kept.",
            metavar="FOLDER",
            show_default="the user's data folder",
        ),
    ] = None,
    site: Annotated[
        list[str] | None,
        option(
            "--site",
            "Setting of the chat page, as temperature=0.7; may be repeated.",
            metavar="NAME=VALUE",
            callback=check_site,
        ),
    ] = None,
    register: Annotated[
        list[str] | None,
        option("--register", "Front door to belong to; may be repeated.", metavar="URL"),
    ] = None,
    region: Annotated[
        str | None, option("--region", "Of the fleet, that this replica is in.", metavar="NAME")
    ] = None,
    cluster: Annotated[
        str | None, option("--cluster", "Of the region, that this replica belongs to.", metavar="NAME")
    ] = None,
    advertise: Annotated[
        str | None,
        option(
            "--advertise",
            "Where front doors reach this replica.",
            metavar="URL",
            show_default="--host and --port",
        ),
    ] = None,
    fleet_token: FleetToken = None,
    drain_seconds: Annotated[
        float, option("--drain-seconds", "Time for running answers when stopping.", metavar="SECONDS", min=0)
    ] = 30.0,
    log_level: Level = "info",
    config: Config = None,
) -> None:
    """Serve models: a chat page at /, the OpenAI-compatible API at /v1.

    Every option is also a key of [serve] in the --config file and an environment variable
    RIDGELINE_<OPTION>; the command line wins over the environment, and that over the file.

    \b
    Examples:
      ridgeline serve
      ridgeline serve --port 8080 --kv-memory 2GiB --max-batch 16
      ridgeline serve ./my-model small=smollm2-135m
      ridgeline serve --host 0.0.0.0 --api-key alice=a-long-secret
      ridgeline serve --device cuda hf:Qwen/Qwen3-8B --site temperature=0.7
      ridgeline serve --device simulated:h100
      ridgeline serve --register http://10.0.0.1:8000 --region us-east --cluster us-east-a
    """
    joining = joining_of(register, region, cluster, advertise, fleet_token)
    check_dtype(device, dtype)
    if kv_disk_dir is not None and kv_disk is None:
        raise typer.BadParameter(
            "--kv-disk-dir says where, and --kv-disk how much: without it nothing is kept"
        )
    from ridgeline.api.settings import ApiSettings
    from ridgeline.cli.server import Serving, run
    from ridgeline.engine.options import EngineOptions

    try:
        api = ApiSettings(
            host=host,
            api_keys=with_fleet_key(read_api_keys(api_key or []), joining),
            allowed_hosts=tuple(allowed_host or ()),
            allowed_origins=tuple(allowed_origin or ()),
            public_metrics=public_metrics,
        )
        engine = EngineOptions(
            device=device,
            dtype=dtype,
            kv_dtype=kv_dtype,
            kv_memory_bytes=kv_memory,
            shared_prefixes=tuple(_text_of(path) for path in shared_prefix or ()),
            kv_policy=kv_policy,
            kv_host_bytes=kv_host_memory or 0,
            kv_disk_bytes=kv_disk or 0,
            kv_disk_folder=None if kv_disk_dir is None else str(kv_disk_dir),
            max_batch=max_batch,
            max_batch_tokens=max_batch_tokens,
            max_context_tokens=max_context,
            inter_token_seconds=itl_target,
            max_waiting=max_waiting,
            draft_tokens=draft_tokens,
            threads=threads,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if not models and not random_weights:
        models = [DEFAULT_MODEL]
    run(
        Serving(
            models=tuple(models or ()),
            random_weights=tuple(random_weights or ()),
            port=port,
            engine=engine,
            api=api,
            site=site_settings(site or ()),
            data_dir=data_dir,
            joining=joining,
            drain_seconds=drain_seconds,
            log_level=log_level,
        )
    )


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"--shared-prefix: cannot read {path} as text ({error})") from error


def read_api_keys(given: list[str]) -> dict[str, str]:
    """Secrets by name. Raises BadParameter for a name that comes twice."""
    keys: dict[str, str] = {}
    for text in given:
        name, secret = parse_api_key(text)
        if name in keys:
            raise typer.BadParameter(f"--api-key: two keys are called '{name}'; write each as NAME=KEY")
        keys[name] = secret
    return keys
