"""Blocks out of and into a pool whose first two dimensions are layers and blocks."""

import torch


def read_blocks(pool: torch.Tensor, blocks: torch.Tensor) -> torch.Tensor:
    """A copy of the blocks, each over all layers in one piece: [blocks, bytes], uint8."""
    return pool.index_select(1, blocks).movedim(1, 0).flatten(1).contiguous().view(torch.uint8)


def write_blocks(pool: torch.Tensor, blocks: torch.Tensor, contents: torch.Tensor) -> None:
    """The reverse of `read_blocks`."""
    layers, _, *rest = pool.shape
    parts = contents.view(pool.dtype).view(len(blocks), layers, *rest)
    pool.index_copy_(1, blocks, parts.movedim(0, 1))
