"""What attention on a GPU must know of a step: integers on the device, shared by all layers.

Queries that attend to the same sequence make a *tile*: one token of a decoding sequence, or up to
`tile_queries` neighbours of a chunk. A tile whose context is long is cut into several *units*, each
with a range of the context, so that the whole GPU has work at any batch size; what a tile's units
found is merged afterwards.

    tile      tokens first_token .. first_token + queries, at positions first_position ..
    unit      the same, over the context's positions kv_start .. kv_end only
"""

from dataclasses import dataclass

import torch

UNIT_FIELDS = ("first_token", "queries", "first_position", "slot", "kv_start", "kv_end", "split", "unused")
"""Columns of `Work.units`, int32. `split` is 1 if the tile has several units; a unit without
queries is padding."""

TILE_FIELDS = ("first_token", "queries", "first_unit", "parts")
"""Columns of `Work.tiles`, int32. `parts` above 1: units first_unit .. first_unit + parts are to be
merged; else there is nothing to merge."""


@dataclass(frozen=True, slots=True)
class Work:
    """Tiles and units of one launch; the launch's size is that of the tensors.

    Attributes:
        units: [units, 8], see `UNIT_FIELDS`.
        tiles: [tiles, 4], see `TILE_FIELDS`.
        tile_queries: most queries in a tile.
        merges: whether any tile may have several units.
    """

    units: torch.Tensor
    tiles: torch.Tensor
    tile_queries: int
    merges: bool


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """All of a step that attention needs.

    Attributes:
        positions: [tokens] int32; negative for padding: nothing is stored, the output is undefined.
        slots: [tokens] int32, row of `tables`.
        tables: [slots, blocks] int32, block tables.
        works: none to two launches: single tokens, chunks.
    """

    positions: torch.Tensor
    slots: torch.Tensor
    tables: torch.Tensor
    works: tuple[Work, ...]
