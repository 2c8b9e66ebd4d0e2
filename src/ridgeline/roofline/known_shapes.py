"""Shapes of models that are asked for by name where no files are needed, from their `config.json`."""

from collections.abc import Mapping

from ridgeline.roofline.shape import ModelShape

KNOWN_SHAPES: Mapping[str, ModelShape] = {
    "llama-3.1-8b": ModelShape(32, 4096, 32, 8, 128, 14336, 128256, tied_head=False),
    "llama-3.1-70b": ModelShape(80, 8192, 64, 8, 128, 28672, 128256, tied_head=False),
    "qwen3-8b": ModelShape(36, 4096, 32, 8, 128, 12288, 151936, tied_head=False, qk_norm=True),
    "qwen3-32b": ModelShape(64, 5120, 64, 8, 128, 25600, 151936, tied_head=False, qk_norm=True),
    "smollm2-135m": ModelShape(30, 576, 9, 3, 64, 1536, 49152, tied_head=True),
}


def find_shape(name: str) -> ModelShape:
    """The shape of this name, in any case of letters; raises ValueError naming what there is."""
    try:
        return KNOWN_SHAPES[name.lower()]
    except KeyError:
        raise ValueError(f"model {name!r} is unknown; there is {', '.join(KNOWN_SHAPES)}") from None
