"""Fetching `hf:org/name`, with huggingface_hub, whose own cache is used."""

import re
from dataclasses import dataclass
from pathlib import Path

from ridgeline.models.errors import ModelError

PREFIX = "hf:"
_SPEC = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:/(?P<file>[^@]+\.gguf))?(?:@(?P<revision>[\w./-]+))?")
_PATTERNS = ["*.json", "*.safetensors", "*.jinja"]
_TWICE = ["consolidated*", "original/*"]  # the same weights again, in their makers' own layout


@dataclass(frozen=True, slots=True)
class HubSpec:
    """`hf:org/name[/file.gguf][@revision]`, taken apart."""

    repo: str
    file: str | None
    revision: str | None

    @property
    def name(self) -> str:
        """What clients call the model: `name`, or the file without its ending."""
        return Path(self.file).stem if self.file else self.repo.partition("/")[2]


def parse_spec(spec: str) -> HubSpec:
    """Take `spec` apart.

    Raises:
        ModelError: when it is not of that form.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise ModelError(
            f"'{spec}' is not of the form hf:org/name, hf:org/name@revision or hf:org/name/file.gguf."
        )
    return HubSpec(match["repo"], match["file"], match["revision"])


def fetch(spec: HubSpec) -> Path:
    """The local folder of a repository, or the local GGUF file, fetched where it is not there yet.

    Raises:
        ModelError: no network, not found, gated, or no such file in it.
    """
    import huggingface_hub
    from huggingface_hub import errors

    named = PREFIX + spec.repo + (f"@{spec.revision}" if spec.revision else "")
    patterns = [spec.file] if spec.file else _PATTERNS
    try:
        folder = Path(
            huggingface_hub.snapshot_download(
                spec.repo, revision=spec.revision, allow_patterns=patterns, ignore_patterns=_TWICE
            )
        )
    except errors.GatedRepoError as error:
        raise ModelError(
            f"{named} asks for its terms to be accepted; do so on its page, then run 'hf auth login'."
        ) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"{named} does not exist: the repository has no such revision.") from error
    except errors.RepositoryNotFoundError as error:
        raise ModelError(
            f"{named} does not exist or is private; check the name, or run 'hf auth login' if it is yours."
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise ModelError(
            f"{named} is not on this machine and could not be fetched; check the network, or give the path "
            "of a folder that has it."
        ) from error
    except (errors.HfHubHTTPError, OSError) as error:
        raise ModelError(f"{named} could not be fetched ({error}); try again.") from error
    if spec.file is None:
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"{named} has no config.json; if it holds GGUF files, name one: {named}/file.gguf."
            )
        return folder
    if not (folder / spec.file).is_file():
        raise ModelError(f"{named} has no file {spec.file}; look at its list of files for the right name.")
    return folder / spec.file
