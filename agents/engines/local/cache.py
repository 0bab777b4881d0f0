"""The static key/value cache: one tensor for all layers, one row per running request."""

from __future__ import annotations

import torch
from torch import Tensor

_MIN_LENGTH = 128  # tokens; smaller caches are not worth a later copy


class KVCache:
    """Keys and values as one tensor [layers, 2, rows, kv_heads, length, head_dim].

    Rows and length grow by doubling, so memory follows what runs and not the context limit.
    """

    def __init__(
        self, layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.data = torch.empty(layers, 2, 0, kv_heads, 0, head_dim, dtype=dtype, device=device)
        self._heads = torch.arange(2 * kv_heads, device=device)
        self.layers: list[Tensor] = []
        self.flat: list[Tensor] = []

    @property
    def rows(self) -> int:
        return self.data.shape[2]

    @property
    def length(self) -> int:
        return self.data.shape[4]

    def ensure(self, rows: int, length: int) -> None:
        """Make room for `rows` rows of `length` tokens, keeping what is there."""
        if rows <= self.rows and length <= self.length:
            return
        layers, _, _, heads, _, dim = self.data.shape
        new_rows = self.rows if rows <= self.rows else max(rows, 2 * self.rows)
        grown = max(length, 2 * self.length, _MIN_LENGTH)
        new_length = self.length if length <= self.length else grown
        # Zeros, not garbage: a masked NaN in a value would still turn the output into NaN.
        data = self.data.new_zeros(layers, 2, new_rows, heads, new_length, dim)
        data[:, :, : self.rows, :, : self.length] = self.data
        self.data = data
        self.layers = list(data.unbind(0))
        self.flat = [layer.view(-1, dim) for layer in self.layers]

    def slots(self, rows: Tensor, positions: Tensor) -> Tensor:
        """Where in `flat` the keys, then the values, of each token go: [N * 2 * kv_heads]."""
        heads = self.data.shape[3]
        which, head = self._heads // heads, self._heads % heads
        index = ((which * self.rows + rows[:, None]) * heads + head) * self.length
        return (index + positions[:, None]).flatten()

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one row into another."""
        self.data[:, :, target, :, :length] = self.data[:, :, source, :, :length]

    def read(self, row: int, start: int, end: int) -> Tensor:
        """A view [layers, 2, kv_heads, end - start, head_dim]."""
        return self.data[:, :, row, :, start:end]

    def write(self, row: int, data: Tensor) -> None:
        """Put `data` (shaped as `read` gives it) at the start of a row."""
        self.data[:, :, row, :, : data.shape[3]] = data
