"""Opening a model by whatever name it was given."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ridgeline.models.cache import cache_dir
from ridgeline.models.catalogue import CATALOGUE, Progress, pull
from ridgeline.models.config import ModelConfig, config_from_json
from ridgeline.models.errors import ModelError
from ridgeline.models.gguf_files import open_gguf
from ridgeline.models.random_weights import RandomWeights
from ridgeline.text.byte_tokenizer import MINIMUM_VOCAB, ByteTokenizer
from ridgeline.text.from_gguf import tokenizer_from_gguf
from ridgeline.text.tokenizer import Tokenizer

if TYPE_CHECKING:
    import torch


_SAMPLE_BYTES = 64


class Weights(Protocol):
    """Tensors by canonical name, read when asked for."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor there is."""
        ...

    def tensor(self, name: str) -> "torch.Tensor":
        """One tensor, in float32 or as stored where that is float16 or bfloat16."""
        ...


class ModelFiles:
    """A model that can be run: configuration, tokenizer, and tensors read one at a time.

    Attributes:
        name: what clients call it.
        config: its sizes.
        tokenizer: text to ids and back.
        weights: its tensors; `weights.raw` gives stored blocks where the file is GGUF.
        weights_bytes_on_disk: 0 for random weights.
        fingerprint: equal for equal files, cheap to make.
    """

    def __init__(
        self,
        *,
        name: str,
        config: ModelConfig,
        tokenizer: Tokenizer,
        weights: Weights,
        weights_bytes_on_disk: int,
        fingerprint: str,
        source: str,
    ) -> None:
        """Check that the tensors are those the configuration asks for.

        Raises:
            ModelError: naming `source` and the first tensor at fault.
        """
        self.name = name
        self.config = config
        self.tokenizer = tokenizer
        self.weights = weights
        self.weights_bytes_on_disk = weights_bytes_on_disk
        self.fingerprint = fingerprint
        _check_shapes(config, weights.shapes(), source)
        if tokenizer.vocab_size > config.vocab:
            raise ModelError(
                f"{source} has {tokenizer.vocab_size} tokens in its tokenizer but {config.vocab} rows in its "
                "embedding table; tokenizer and weights are not of the same model."
            )

    def tensors(self) -> "Iterator[tuple[str, torch.Tensor]]":
        """Canonical name and tensor, in the order of the layers; one at a time is in memory.

        Dtype: float32 for dequantised blocks, else as stored (float32, float16, bfloat16).
        """
        for name in self.config.tensor_shapes():
            yield name, self.weights.tensor(name)


def _check_shapes(config: ModelConfig, found: dict[str, tuple[int, ...]], source: str) -> None:
    expected = config.tensor_shapes()
    missing = [name for name in expected if name not in found]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise ModelError(f"{source} lacks the tensor {missing[0]}{more}; fetch or convert the model again.")
    for name, shape in expected.items():
        if found[name] != shape:
            raise ModelError(
                f"{source} has {name} in the shape {found[name]}, its configuration asks for {shape}; "
                "configuration and weights are not of the same model."
            )


def open_model(spec: str, *, name: str | None = None, progress: Progress | None = None) -> ModelFiles:
    """Open an alias of the catalogue (fetched if needed), a folder, or a `.gguf` file.

    Raises:
        ModelError: in one sentence, with a way out.
    """
    if spec in CATALOGUE:
        return open_gguf_model(pull(spec, progress), name or spec)
    path = Path(spec).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        return open_gguf_model(path, name or path.stem)
    raise ModelError(
        f"there is no model '{spec}': it is neither in the catalogue ({', '.join(CATALOGUE)}) nor a "
        f"GGUF file or folder; 'ridgeline models' lists what there is (cache: {cache_dir()})."
    )


def open_gguf_model(path: Path, name: str) -> ModelFiles:
    """Open a GGUF file.

    Raises:
        ModelError: see `open_model`.
    """
    weights = open_gguf(path)
    try:
        tokenizer = tokenizer_from_gguf(weights.file.metadata)
    except ValueError as error:
        raise ModelError(f"{path} cannot be used: {error}.") from error
    digest = hashlib.sha256(weights.file.header())
    digest.update(str(len(weights.file)).encode())
    for tensor in weights.names():  # the header alone may be the same for two trainings of a model
        digest.update(weights.raw(tensor)[1].reshape(-1)[:_SAMPLE_BYTES].tobytes())
    return ModelFiles(
        name=name,
        config=weights.config,
        tokenizer=tokenizer,
        weights=weights,
        weights_bytes_on_disk=len(weights.file),
        fingerprint=digest.hexdigest()[:16],
        source=str(path),
    )


def random_model(
    config: str | Path | Mapping[str, Any], *, seed: int = 0, name: str | None = None
) -> ModelFiles:
    """A model with random weights, for `--random-weights CONFIG`.

    `config` is a `config.json`, a folder with one, or its contents.

    Raises:
        ModelError: when it cannot be read, or describes a model that cannot be run.
    """
    if isinstance(config, Mapping):
        values, source, path = config, "the given configuration", Path()
    else:
        path = Path(config).expanduser()
        path = path / "config.json" if path.is_dir() else path
        values, source = read_json(path), str(path)
    parsed = config_from_json(values, source)
    if parsed.vocab < MINIMUM_VOCAB:
        raise ModelError(
            f"{source} says vocab_size = {parsed.vocab}; without a tokenizer.json beside it the tokenizer is "
            f"one of bytes, which needs at least {MINIMUM_VOCAB}."
        )
    return ModelFiles(
        name=name or (path.parent.name if path.name == "config.json" else path.stem) or "random",
        config=parsed,
        tokenizer=ByteTokenizer(parsed.vocab),
        weights=RandomWeights(parsed, seed),
        weights_bytes_on_disk=0,
        fingerprint=hashlib.sha256(f"random:{seed}:{parsed}".encode()).hexdigest()[:16],
        source=source,
    )


def read_json(path: Path) -> Mapping[str, Any]:
    """The object in a JSON file.

    Raises:
        ModelError: when the file is missing, unreadable or holds something else.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise ModelError(f"{path} is not valid JSON ({error}); fetch the model again.") from error
    if not isinstance(values, dict):
        raise ModelError(f"{path} does not hold a JSON object; fetch the model again.")
    return values
