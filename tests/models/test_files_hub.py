"""`hf:org/name`, with the download replaced by a local folder or by what goes wrong with one."""

from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import pytest
from huggingface_hub import errors
from small_files import write_folder, write_gguf

from ridgeline.models.errors import ModelError
from ridgeline.models.files import open_model
from ridgeline.models.hub import HubSpec, parse_spec


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the library was asked; it answers with a temporary folder."""
    seen: list[dict[str, Any]] = []

    def download(repo: str, **options: Any) -> str:
        seen.append({"repo": repo, **options})
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return seen


@pytest.mark.parametrize(
    ("spec", "parsed"),
    [
        ("hf:org/name", HubSpec("org/name", None, None)),
        ("hf:org/name@v1.0", HubSpec("org/name", None, "v1.0")),
        ("hf:org/name@refs/pr/3", HubSpec("org/name", None, "refs/pr/3")),
        ("hf:o-r.g/n_a-m.e/file.Q4_K_M.gguf", HubSpec("o-r.g/n_a-m.e", "file.Q4_K_M.gguf", None)),
        ("hf:org/name/sub/file.gguf@abc", HubSpec("org/name", "sub/file.gguf", "abc")),
    ],
)
def test_specs(spec: str, parsed: HubSpec) -> None:
    assert parse_spec(spec) == parsed


@pytest.mark.parametrize("spec", ["hf:", "hf:name", "hf:a/b/c", "hf:a/b@", "hf:a b/c", "hf:/x.gguf"])
def test_other_specs_are_refused(spec: str) -> None:
    with pytest.raises(ModelError, match="not of the form hf:org/name"):
        open_model(spec)


def test_folder_is_opened_under_its_own_name(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    write_folder(tmp_path)
    assert open_model("hf:org/tiny-llama@abc").name == "tiny-llama"
    (call,) = calls
    assert (call["repo"], call["revision"]) == ("org/tiny-llama", "abc")
    assert "*.safetensors" in call["allow_patterns"]
    assert not any(pattern.endswith((".bin", ".gguf", "*")) for pattern in call["allow_patterns"])
    assert "consolidated*" in call["ignore_patterns"]


def test_one_gguf_file_is_fetched_alone(tmp_path: Path, calls: list[dict[str, Any]]) -> None:
    write_gguf(tmp_path / "tiny.Q8_0.gguf")
    assert open_model("hf:org/tiny-GGUF/tiny.Q8_0.gguf").name == "tiny.Q8_0"
    assert calls[0]["allow_patterns"] == ["tiny.Q8_0.gguf"]


def test_file_that_is_not_there(calls: list[dict[str, Any]]) -> None:
    with pytest.raises(ModelError, match=r"hf:org/name has no file x\.gguf"):
        open_model("hf:org/name/x.gguf")


def test_repository_of_gguf_files_only(calls: list[dict[str, Any]]) -> None:
    with pytest.raises(ModelError, match=r"no config\.json; .* name one: hf:org/name/file\.gguf"):
        open_model("hf:org/name")


RESPONSE = httpx.Response(404, request=httpx.Request("GET", "https://hub.invalid/x"))
FAILURES = {
    "gated": (
        errors.GatedRepoError("m", response=RESPONSE),
        "asks for its terms to be accepted.*hf auth login",
    ),
    "missing": (errors.RepositoryNotFoundError("m", response=RESPONSE), "does not exist or is private"),
    "revision": (errors.RevisionNotFoundError("m", response=RESPONSE), "has no such revision"),
    "offline": (errors.LocalEntryNotFoundError("m"), "not on this machine and could not be fetched"),
    "told to stay offline": (errors.OfflineModeIsEnabled("m"), "could not be fetched; check the network"),
    "server": (errors.HfHubHTTPError("500 oops", response=RESPONSE), r"could not be fetched \(500 oops\)"),
    "disk": (OSError(28, "No space left on device"), "No space left on device"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_failures_are_told(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failure, reason = FAILURES[case]

    def fail(*_: object, **__: object) -> str:
        raise failure

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ModelError, match=reason) as error:
        open_model("hf:org/name")
    assert "hf:org/name" in str(error.value)
