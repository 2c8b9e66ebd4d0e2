"""Opening a model by whatever name it was given."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ridgeline.models import hub
from ridgeline.models.catalogue import CATALOGUE, Progress, pull
from ridgeline.models.config import ModelConfig
from ridgeline.models.config_readers import config_from_json
from ridgeline.models.errors import ModelError
from ridgeline.models.json_files import read_json
from ridgeline.models.random_weights import RandomWeights
from ridgeline.models.safetensors_files import SafetensorsWeights

if TYPE_CHECKING:
    import torch

    from ridgeline.text.tokenizer import Tokenizer


class Weights(Protocol):
    """Tensors by canonical name, read when asked for."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor there is."""
        ...

    def tensor(self, name: str, device: "torch.device | None" = None) -> "torch.Tensor":
        """One tensor, in float32 or as stored where that is float16 or bfloat16.

        What is read from a file is in host memory, what is made up on `device` (None: the host).
        """
        ...


class ModelFiles:
    """A model that can be run: configuration, tokenizer, and tensors read one at a time.

    Attributes:
        name: what clients call it.
        config: its sizes.
        tokenizer: text to ids and back; made when first asked for, and then ModelError is raised if
            it cannot be, for the engines' process does without.
        weights: its tensors; `weights.raw` gives stored blocks where the file is GGUF.
        weights_bytes_on_disk: 0 for random weights.
        fingerprint: equal for equal files, cheap to make.
    """

    def __init__(
        self,
        *,
        name: str,
        config: ModelConfig,
        tokenizer: "Callable[[], Tokenizer]",
        weights: Weights,
        weights_bytes_on_disk: int,
        fingerprint: str,
        source: str,
    ) -> None:
        """Check that the tensors are those the configuration asks for; `tokenizer` makes it.

        Raises:
            ModelError: naming `source` and the first tensor at fault.
        """
        self.name = name
        self.config = config
        self._make_tokenizer = tokenizer
        self._source = source
        self.weights = weights
        self.weights_bytes_on_disk = weights_bytes_on_disk
        self.fingerprint = fingerprint
        _check_shapes(config, weights.shapes(), source)

    @cached_property
    def tokenizer(self) -> "Tokenizer":
        """See the class."""
        try:
            tokenizer = self._make_tokenizer()
        except ValueError as error:
            raise ModelError(f"{self._source} cannot be used: {error}.") from error
        if tokenizer.vocab_size > self.config.vocab:
            raise ModelError(
                f"{self._source} has {tokenizer.vocab_size} tokens in its tokenizer but {self.config.vocab} "
                "rows in its embedding table; tokenizer and weights are not of the same model."
            )
        return tokenizer

    def tensors(self, device: "torch.device | None" = None) -> "Iterator[tuple[str, torch.Tensor]]":
        """Canonical name and tensor, in the order of the layers; one at a time is in memory.

        Args:
            device: where random weights are made; None is the host. Those of files are in host
                memory whatever it is.

        Dtype: float32 for dequantised blocks, else as stored (float32, float16, bfloat16).
        """
        for name in self.config.tensor_shapes():
            yield name, self.weights.tensor(name, device)


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
    """Open a model; `name` is what clients will call it, by default the last part of `spec`.

    `spec` is an alias of the catalogue (fetched if needed), a Hugging Face folder, a GGUF file, or
    `hf:org/name[@revision]` or `hf:org/name/file.gguf`.

    Raises:
        ModelError: in one sentence, with a way out.
    """
    if spec in CATALOGUE:
        return _open_gguf(pull(spec, progress), name or spec)
    if spec.startswith(hub.PREFIX):
        parsed = hub.parse_spec(spec)
        return _open_path(hub.fetch(parsed), name or parsed.name)
    path = Path(spec).expanduser()
    if not path.exists():
        raise ModelError(
            f"there is no model '{spec}': it is neither in the catalogue ({', '.join(CATALOGUE)}) nor a "
            "file or folder here; for one on the Hugging Face hub write hf:org/name."
        )
    return _open_path(path, name or (path.stem if path.is_file() else path.resolve().name))


def _open_path(path: Path, name: str) -> ModelFiles:
    if path.is_file():
        return _open_gguf(path, name)
    if (path / "config.json").is_file():
        return _open_folder(path, name)
    found = sorted(path.glob("*.gguf"))
    if len(found) == 1:
        return _open_gguf(found[0], name)
    if found:
        raise ModelError(f"{path} has {len(found)} GGUF files; give the path of one, {found[0].name} say.")
    raise ModelError(f"{path} is not a model: it has neither a config.json nor a GGUF file.")


def _open_folder(folder: Path, name: str) -> ModelFiles:
    weights = SafetensorsWeights(folder)
    return ModelFiles(
        name=name,
        config=weights.config,
        tokenizer=lambda: _tokenizer_of_folder(folder),
        weights=weights,
        weights_bytes_on_disk=weights.bytes_on_disk,
        fingerprint=weights.fingerprint,
        source=str(folder),
    )


def _open_gguf(path: Path, name: str) -> ModelFiles:
    from ridgeline.models.gguf_files import open_gguf  # its library is not everywhere: see benchmarks/gpu

    weights = open_gguf(path)

    def tokenizer() -> "Tokenizer":
        from ridgeline.text.from_gguf import tokenizer_from_gguf

        return tokenizer_from_gguf(weights.file.metadata)

    return ModelFiles(
        name=name,
        config=weights.config,
        tokenizer=tokenizer,
        weights=weights,
        weights_bytes_on_disk=len(weights.file),
        fingerprint=weights.fingerprint(),
        source=str(path),
    )


def _tokenizer_of_folder(folder: Path) -> "Tokenizer":
    from ridgeline.text.from_folder import tokenizer_from_folder

    return tokenizer_from_folder(folder)


def random_model(
    config: str | Path | Mapping[str, Any], *, seed: int = 0, name: str | None = None
) -> ModelFiles:
    """A model with random weights, for `--random-weights CONFIG`.

    `config` is a `config.json`, a folder with one, or its contents.

    Raises:
        ModelError: when it cannot be read, or describes a model that cannot be run.
    """
    if isinstance(config, Mapping):
        values, source, path = config, "the given configuration", None
    else:
        path = Path(config).expanduser()
        path = path / "config.json" if path.is_dir() else path
        values, source = read_json(path), str(path)
    parsed = config_from_json(values, source)
    return ModelFiles(
        name=name or _name_of(path),
        config=parsed,
        tokenizer=lambda: _tokenizer_beside(path, parsed, source),
        weights=RandomWeights(parsed, seed),
        weights_bytes_on_disk=0,
        fingerprint=hashlib.sha256(f"random:{seed}:{parsed}".encode()).hexdigest()[:16],
        source=source,
    )


def _tokenizer_beside(path: Path | None, config: ModelConfig, source: str) -> "Tokenizer":
    """The tokenizer in the folder of the configuration, else one of bytes."""
    from ridgeline.text.byte_tokenizer import MINIMUM_VOCAB, ByteTokenizer

    if path is not None and (path.parent / "tokenizer.json").is_file():
        return _tokenizer_of_folder(path.parent)
    if config.vocab < MINIMUM_VOCAB:
        raise ModelError(
            f"{source} says vocab_size = {config.vocab}; without a tokenizer.json beside it the tokenizer "
            f"is one of bytes, which needs at least {MINIMUM_VOCAB}."
        )
    return ByteTokenizer(config.vocab)


def _name_of(path: Path | None) -> str:
    if path is None:
        return "random"
    return path.resolve().parent.name if path.name == "config.json" else path.stem
