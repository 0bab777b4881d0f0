"""The static key/value cache: two tensors for all layers, one row per running request."""

from __future__ import annotations

import torch
from torch import Tensor

from .backend import KeysValues


class KVCache:
    """Values [layers, rows, kv_heads, length, head_dim]; keys with the last two exchanged.

    Both are laid out for a decode step: what is summed over runs through memory last. The
    length is a multiple of 32 and follows the longest live row closely, so that a layer's keys
    are one dense block: torch's products over slices of a longer cache are 2 to 6 times slower.
    """

    def __init__(
        self, layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.dtype = dtype
        self._heads = torch.arange(kv_heads, device=device)
        self.values = torch.zeros(layers, 0, kv_heads, 0, head_dim, dtype=dtype, device=device)
        self.keys = self.values.transpose(-1, -2)
        self.layers = list(zip(self.keys, self.values, strict=True))
        # Memory to resize into, in turn: fresh memory would cost more than the copy itself.
        self._spare = self._in_use = (self.values.flatten(), self.values.flatten())

    @property
    def rows(self) -> int:
        return self.values.shape[1]

    @property
    def length(self) -> int:
        return self.values.shape[3]

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
        layers, _, heads, _, dim = self.values.shape
        size, kept = layers * rows * heads * length * dim, min(length, self.length)
        if self._spare[0].numel() < size:
            # Zeros, not garbage: a masked NaN in a value would still make the output NaN.
            more = size + size // 4
            self._spare = (self.keys.new_zeros(more), self.keys.new_zeros(more))
        keys = self._spare[0][:size].view(layers, rows, heads, dim, length)
        keys[:, :live, ..., :kept] = self.keys[:, :live, ..., :kept]
        values = self._spare[1][:size].view(layers, rows, heads, length, dim)
        values[:, :live, :, :kept] = self.values[:, :live, :, :kept]
        self.keys, self.values = keys, values
        self._spare, self._in_use = self._in_use, self._spare
        self.layers = list(zip(keys, values, strict=True))

    def slots(self, rows: Tensor, positions: Tensor) -> Tensor:
        """Where the values of tokens go in a layer seen as [rows * kv_heads * length, D]."""
        heads = self.values.shape[2]
        index = (rows[:, None] * heads + self._heads) * self.length
        return (index + positions[:, None]).flatten()

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one row into another."""
        self.keys[:, target, ..., :length] = self.keys[:, source, ..., :length]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]

    def read(self, row: int, start: int, stop: int) -> KeysValues:
        """Views of some tokens of a row; see `backend.KeysValues`."""
        return self.keys[:, row, ..., start:stop], self.values[:, row, :, start:stop]

    def write(self, row: int, data: KeysValues) -> None:
        """Put `data` (shaped as `read` gives it) at the start of a row."""
        keys, values = data
        self.keys[:, row, ..., : keys.shape[-1]] = keys
        self.values[:, row, :, : keys.shape[-1]] = values


def _round_up(length: int) -> int:
    """The next multiple of 32, and of an eighth of the length's power of two if that is more."""
    step = max(32, 1 << max(length.bit_length() - 4, 0))
    return -(-length // step) * step
