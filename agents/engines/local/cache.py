"""The static key/value cache: one tensor for all layers, one row per running request."""

from __future__ import annotations

import mmap
from contextlib import suppress

import torch
from torch import Tensor

_HUGE = 2 << 20  # bytes


class KVCache:
    """`data` is [layers, 2, rows, kv_heads, length, head_dim]: keys, then values.

    The length is a multiple of 32. With `dense` it follows the longest live row closely, because
    torch's products over slices of a longer cache are 2 to 6 times slower; each change copies
    the cache. Otherwise, on a CPU with `kernels.cpp`, it grows by half, and shrinks from long
    lengths only; the heads of a token lie together, and what is short is in huge pages, which
    are read faster.
    """

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        dense: bool = True,
    ) -> None:
        self.dtype, self._dense = dtype, dense
        self._heads = torch.arange(kv_heads, device=device)
        self.data = torch.zeros(layers, 2, 0, kv_heads, 0, head_dim, dtype=dtype, device=device)
        self.layers = [(keys, values) for keys, values in self.data]
        # Memory to resize into, in turn: fresh memory would cost more than the copy itself.
        self._spare = self._in_use = self.data.flatten()

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
            grown = length if self._dense else max(length, 3 * self.length // 2)
            longer = _round_up(grown) if length > self.length else self.length
            self._resize(wanted, longer, self.rows)

    def fit(self, rows: int, length: int) -> None:
        """The same where rows 0 .. rows - 1 are all that live: gives up length not needed."""
        self.reserve(rows, length)
        needed = 1.3 * _round_up(length) if self._dense else 4 * max(length, 256)
        if needed < self.length:
            self._resize(self.rows, _round_up(length), rows)

    def clear(self) -> None:
        """Give up all rows. Only a dense cache's length has a say in what is computed from it."""
        if self._dense:
            self._resize(0, 0, 0)

    def _resize(self, rows: int, length: int, live: int) -> None:
        layers, _, _, heads, _, dim = self.data.shape
        size, kept = layers * 2 * rows * heads * length * dim, min(length, self.length)
        if self._spare.numel() < size:
            # Zeros, not garbage: a masked NaN in a value would still make the output NaN.
            if self._dense:
                self._spare = self.data.new_zeros(size + size // 4)
            elif length * heads * dim * self.dtype.itemsize <= _HUGE:
                self._spare = _in_huge_pages(size, self.dtype)
            else:  # a row would hold a whole page for its first token
                self._spare = self.data.new_zeros(size)
        memory = self._spare[:size]
        if self._dense:
            data = memory.view(layers, 2, rows, heads, length, dim)
        else:
            data = memory.view(layers, 2, rows, length, heads, dim).transpose(3, 4)
        data[:, :, :live, :, :kept] = self.data[:, :, :live, :, :kept]
        self.data = data
        self.layers = [(keys, values) for keys, values in data]
        self._spare, self._in_use = self._in_use, self._spare
        if not self._dense:  # it changes seldom, and twice the memory would be too much
            self._spare = memory.new_empty(0)

    def slots(self, rows: Tensor, positions: Tensor) -> Tensor:
        """Where tokens go in one layer's keys or values seen as [rows * kv_heads * length, D]."""
        index = (rows[:, None] * len(self._heads) + self._heads) * self.length
        return (index + positions[:, None]).flatten()

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one row into another."""
        self.data[:, :, target, :, :length] = self.data[:, :, source, :, :length]

    def read(self, row: int, start: int, stop: int) -> Tensor:
        """A view of some tokens of a row: [layers, 2, kv_heads, stop - start, head_dim]."""
        return self.data[:, :, row, :, start:stop]

    def write(self, row: int, data: Tensor) -> None:
        """Put `data` (shaped as `read` gives it) at the start of a row."""
        self.data[:, :, row, :, : data.shape[3]] = data


def _in_huge_pages(size: int, dtype: torch.dtype) -> Tensor:
    """Zeros in memory of their own, in huge pages where the kernel has them."""
    pages = mmap.mmap(-1, size * dtype.itemsize, flags=mmap.MAP_PRIVATE)
    with suppress(OSError):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype)


def _round_up(length: int) -> int:
    """The next multiple of 32, and of an eighth of the length's power of two if that is more."""
    step = max(32, 1 << max(length.bit_length() - 4, 0))
    return -(-length // step) * step
