"""A model in a Hugging Face folder: configuration, and tensors from one or several safetensors files."""

import hashlib
import json
import logging
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ridgeline.models.config import ModelConfig
from ridgeline.models.config_readers import config_from_json
from ridgeline.models.errors import ModelError
from ridgeline.models.json_files import read_json

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = ("F32", "F16", "BF16")
_SAMPLE_BYTES = 64
_MAX_HEADER_BYTES = 100_000_000
"""The limit of the format itself."""


@dataclass(frozen=True, slots=True)
class _Stored:
    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int


class SafetensorsWeights:
    """Tensors of a folder, memory-mapped.

    Attributes:
        config: from `config.json`.
        bytes_on_disk: of all weight files.
        fingerprint: from headers, sizes and the first bytes of each tensor.
    """

    def __init__(self, folder: Path) -> None:
        """Read the headers.

        Raises:
            ModelError: when files are missing, cut short, damaged, or hold what is not supported.
        """
        values = read_json(folder / "config.json")
        self.config: ModelConfig = config_from_json(values, str(folder / "config.json"))
        self._stored: dict[str, _Stored] = {}
        digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
        files = _weight_files(folder)
        for path in files:
            found, header = _read_header(path)
            self._stored |= found
            digest.update(header)
            digest.update(_samples(path, found))
        self.bytes_on_disk = sum(path.stat().st_size for path in files)
        self.fingerprint = digest.hexdigest()[:16]
        self._open: dict[Path, Any] = {}
        self._report_unused(folder)

    def _report_unused(self, folder: Path) -> None:
        expected = self.config.tensor_shapes()
        known = ("lm_head.weight", "rotary_emb.inv_freq")
        unused = [n for n in self._stored if n not in expected and not n.endswith(known)]
        if unused:
            log.warning("%s: %d tensors have no use here, %s the first", folder, len(unused), unused[0])

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor in the files."""
        return {name: stored.shape for name, stored in self._stored.items()}

    def tensor(self, name: str, device: "torch.device | None" = None) -> "torch.Tensor":
        """One tensor as stored: float32, float16 or bfloat16, its memory the mapped file.

        See `Weights.tensor`: whatever `device` is, what is read is in host memory.
        """
        del device
        from safetensors import SafetensorError, safe_open

        path = self._stored[name].path
        try:
            if path not in self._open:
                self._open[path] = safe_open(path, framework="pt")
            tensor: torch.Tensor = self._open[path].get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{path} is damaged ({error}); fetch it again.") from error
        return tensor


def _weight_files(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if index.is_file():
        listed = read_json(index).get("weight_map")
        if not isinstance(listed, dict) or not listed:
            raise ModelError(f"{index} has no weight_map; fetch the model again.")
        names = sorted(set(listed.values()))
        # The file's own words must not lead out of the folder.
        files = [folder / Path(str(name)).name for name in names]
    elif (folder / _SINGLE).is_file():
        files = [folder / _SINGLE]
    else:
        hint = "; convert its pytorch_model.bin to safetensors" if list(folder.glob("*.bin")) else ""
        raise ModelError(f"{folder} has neither {_SINGLE} nor {_INDEX}{hint}.")
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise ModelError(
            f"{folder} lacks {missing[0].name} and {len(missing) - 1} more of {len(files)} weight files; "
            "fetch the model again."
        )
    return files


def _read_header(path: Path) -> tuple[dict[str, _Stored], bytes]:
    """Tensors of one file and the bytes of its header (8 bytes of length, then JSON)."""
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(size, _MAX_HEADER_BYTES):
                raise ValueError("header longer than the file")
            header = file.read(length)
        described = json.loads(header)
        described.pop("__metadata__", None)
        found = {
            name: _Stored(path, d["dtype"], tuple(d["shape"]), 8 + length + d["data_offsets"][0])
            for name, d in described.items()
        }
        needed = max((8 + length + d["data_offsets"][1] for d in described.values()), default=0)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{path} is not a safetensors file or is damaged; fetch it again.") from error
    if needed > size:
        raise ModelError(f"{path} is cut short: {size} bytes of {needed}; fetch it again.")
    for name, stored in found.items():
        if stored.dtype not in _DTYPES:
            raise ModelError(
                f"{path} stores {name} as {stored.dtype}; supported are {', '.join(_DTYPES)}. "
                "Take an unquantised folder or a GGUF file of the model."
            )
    return found, header


def _samples(path: Path, stored: dict[str, _Stored]) -> bytes:
    """The first bytes of each tensor: the header alone may be the same for two trainings of a model."""
    with path.open("rb") as file:
        parts = []
        for tensor in stored.values():
            file.seek(tensor.start)
            parts.append(file.read(_SAMPLE_BYTES))
    return b"".join(parts)
