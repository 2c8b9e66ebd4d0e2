"""Weights of any size without files, for trials, tests and benchmarks."""

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ridgeline.models.config import ModelConfig

if TYPE_CHECKING:
    import torch

_LOGIT_SPREAD = 3.0
"""Standard deviation of the logits: enough that some tokens are clearly likelier than others."""


@dataclass(frozen=True, slots=True)
class RandomWeights:
    """Normal random tensors, made when asked for.

    They are the same for the same seed, name, shape and kind of device: each kind has a generator
    of its own.
    """

    config: ModelConfig
    seed: int

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every tensor."""
        return self.config.tensor_shapes()

    def tensor(self, name: str, device: "torch.device | None" = None) -> "torch.Tensor":
        """One tensor in float32, drawn on `device`; None is the host.

        Matrices keep the size of what they multiply (deviation 1 / sqrt(columns)); norms are near
        one, biases small. The head's deviation makes the logits spread by about 3.
        """
        import torch

        shape = self.shapes()[name]
        digest = hashlib.sha256(f"{self.seed}:{name}".encode()).digest()
        place = device or torch.device("cpu")
        generator = torch.Generator(place).manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        values = torch.randn(shape, generator=generator, device=place)
        if name.endswith("norm.weight"):
            return values.mul_(0.1).add_(1.0)
        if name.endswith(".bias"):
            return values.mul_(0.1)
        is_head = name == "lm_head.weight" or (name.startswith("model.embed") and self.config.tied_head)
        return values.mul_((_LOGIT_SPREAD if is_head else 1.0) / math.sqrt(shape[-1]))
