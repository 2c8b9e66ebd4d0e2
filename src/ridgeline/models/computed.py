"""What a forward pass on the CPU gives."""

from typing import NamedTuple

import torch


class Computed(NamedTuple):
    """A step.

    Attributes:
        hidden: states of all tokens, normed, [tokens, hidden]: what the head takes.
        logits: those wanted, float32 [rows, vocab].
        peaks: of each row of them the first place of the largest, -1 for one that is not finite
            throughout; None where nobody has looked.
    """

    hidden: torch.Tensor
    logits: torch.Tensor
    peaks: list[int] | None = None
