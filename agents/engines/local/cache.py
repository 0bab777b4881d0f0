"""The static key/value cache: one tensor for all layers, one row per running request."""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """Keys and values as one tensor [layers, 2, rows, kv_heads, length, head_dim].

    The length follows the longest live row closely, so that what a decode step attends to is
    one dense block per layer: batched products over slices of a longer cache are 2 to 6 times
    slower on a CPU. A step of growth copies the cache, once in at least 32 tokens.
    """

    def __init__(
        self, layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._heads = torch.arange(2 * kv_heads, device=device)
        self._adopt(torch.zeros(layers, 2, 0, kv_heads, 0, head_dim, dtype=dtype, device=device))

    def _adopt(self, data: Tensor) -> None:
        self.data = data
        self.layers = list(data.unbind(0))
        self.flat = [layer.view(-1, data.shape[-1]) for layer in self.layers]

    @property
    def rows(self) -> int:
        return self.data.shape[2]

    @property
    def length(self) -> int:
        return self.data.shape[4]

    def reserve(self, rows: int, length: int) -> None:
        """Make room for `rows` rows of `length` tokens, keeping what is there."""
        if rows > self.rows or length > self.length:
            wanted = self.rows if rows <= self.rows else max(rows, 2 * self.rows)
            self._resize(wanted, max(_round_up(length), self.length), self.rows)

    def fit(self, rows: int, length: int) -> None:
        """The same where rows 0 .. rows - 1 are all that live: gives up length not needed."""
        self.reserve(rows, length)
        if 1.3 * _round_up(length) < self.length:
            self._resize(self.rows, _round_up(length), rows)

    def _resize(self, rows: int, length: int, live: int) -> None:
        layers, two, _, heads, _, dim = self.data.shape
        # Zeros, not garbage: a masked NaN in a value would still turn the output into NaN.
        data = self.data.new_zeros(layers, two, rows, heads, length, dim)
        kept = min(length, self.length)
        data[:, :, :live, :, :kept] = self.data[:, :, :live, :, :kept]
        self._adopt(data)

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


def _round_up(length: int) -> int:
    """The next multiple of 32, and of an eighth of the length's power of two if that is more."""
    step = max(32, 1 << max(length.bit_length() - 4, 0))
    return -(-length // step) * step
