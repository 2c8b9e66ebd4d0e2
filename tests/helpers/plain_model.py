"""A model computed plainly in float32, one sequence, its K and V stored in any dtype."""

import numpy as np
import torch

from ridgeline.kernels.interface import Batch
from ridgeline.kernels.reference import ReferenceKernels
from ridgeline.models.files import ModelFiles
from ridgeline.models.transformer import Transformer
from ridgeline.models.weights import assemble

BLOCK_SIZE = 16


class PlainModel:
    """Every call computes more tokens of the same sequence.

    Args:
        files: the model.
        kv_dtype: of the KV cache.
        tokens: most of the sequence.
    """

    def __init__(self, files: ModelFiles, kv_dtype: torch.dtype, tokens: int = 256) -> None:
        kernels = ReferenceKernels()
        weights = assemble(files.config, files.tensors(), kernels, torch.float32)
        blocks = -(-tokens // BLOCK_SIZE)
        self._model = Transformer(
            files.config, weights, kernels, blocks=blocks, block_size_tokens=BLOCK_SIZE, kv_dtype=kv_dtype
        )
        self._table = np.arange(blocks)
        self._known = 0

    @torch.inference_mode()
    def __call__(self, token_ids: list[int]) -> torch.Tensor:
        """Logits after each of these tokens, [tokens, vocab]."""
        positions = np.arange(self._known, self._known + len(token_ids))
        self._known += len(token_ids)
        batch = Batch(
            np.array(token_ids),
            positions,
            np.zeros_like(positions),
            self._table[positions // BLOCK_SIZE],
            np.tile(self._table, (len(positions), 1)),
            positions + 1,
        )
        plan = self._model.attention.plan(batch)
        return self._model.logits(self._model.forward(torch.from_numpy(batch.token_ids), plan))


def plain_greedy(
    files: ModelFiles, kv_dtype: torch.dtype, token_ids: list[int], new_tokens: int
) -> tuple[list[int], list[float]]:
    """The greedy answer, and the distance of the two best logits per step."""
    model, ids, drawn, gaps = PlainModel(files, kv_dtype), token_ids, list[int](), list[float]()
    for _ in range(new_tokens):
        best = model(ids)[-1].topk(2)
        ids = [int(best.indices[0])]
        drawn += ids
        gaps.append(float(best.values[0] - best.values[1]))
    return drawn, gaps
