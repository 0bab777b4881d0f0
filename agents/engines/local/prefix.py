"""Reuse of keys and values between requests: later turns, group members, shared prompts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Key = tuple[int, tuple[int, ...]]  # (serial of the block before, the tokens of this block)


class PrefixCache:
    """Key/value blocks of past requests, found by the tokens that lead up to them.

    Blocks form a tree: a block's key is its parent's serial number and its own tokens, so a
    hit is exact (no hashes that could collide). The least recently used leaf goes first.
    The scheme is vLLM's automatic prefix caching (Kwon et al. 2023) on one preallocated pool.

    Attributes:
        enabled: whether anything is kept: not without memory for a single block, and not for a
            model whose keys and values do not stack.
    """

    block = 16

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.enabled = max_bytes > 0
        self._pool: Tensor | None = None
        self.clear()

    def clear(self) -> None:
        # key -> (serial number, index in the pool), least recently used first
        self._blocks: OrderedDict[Key, tuple[int, int]] = OrderedDict()
        self._serial = 0
        self._used = 0

    def __len__(self) -> int:
        return len(self._blocks)

    def find(self, tokens: Sequence[int]) -> tuple[list[int], Key | None]:
        """Pool indices of the longest cached prefix, and the key of the first block missing."""
        path: list[Key] = []
        parent = 0
        missing: Key | None = None
        for start in range(0, len(tokens) - self.block + 1, self.block):
            key = (parent, tuple(tokens[start : start + self.block]))
            found = self._blocks.get(key)
            if found is None:
                missing = key
                break
            path.append(key)
            parent = found[0]
        self._touch(path)
        return [self._blocks[key][1] for key in path], missing

    def _touch(self, path: list[Key]) -> None:
        """Make a path the newest, its root last of all: a parent outlives its children."""
        for key in reversed(path):
            self._blocks.move_to_end(key)

    def load(self, indices: list[int], length: int) -> Tensor:
        """The first `length` tokens of the blocks at these indices, shaped as `Backend.read`'s."""
        assert self._pool is not None
        picked = self._pool[torch.tensor(indices, device=self._pool.device)]
        return picked.movedim(0, 3).flatten(3, 4)[..., :length, :]

    def store(self, tokens: Sequence[int], read: Callable[[int, int], Tensor | None]) -> None:
        """Keep the full blocks of `tokens`; `read(start, stop)` gives their keys and values."""
        if self._pool is None and (sample := read(0, 1)) is not None:
            self._pool = self._allocate_pool(sample)
        capacity = 0 if self._pool is None else len(self._pool)
        if self._pool is None or capacity == 0:
            self.enabled = False
            return
        path, fresh = self._insert(tokens, min(len(tokens) // self.block, capacity), capacity)
        self._touch(path)
        if not fresh:
            return
        kv = read(fresh[0][0] * self.block, (fresh[-1][0] + 1) * self.block)
        assert kv is not None
        layers, two, heads, _, dim = kv.shape
        blocks = kv.reshape(layers, two, heads, len(fresh), self.block, dim).movedim(3, 0)
        self._pool[torch.tensor([i for _, i in fresh], device=kv.device)] = blocks

    def _allocate_pool(self, sample: Tensor) -> Tensor:
        """Room for as many blocks as fit; pages of it are only touched when one is written."""
        layers, two, heads, _, dim = sample.shape
        capacity = self.max_bytes // (sample.numel() * sample.element_size() * self.block)
        return sample.new_empty(capacity, layers, two, heads, self.block, dim)

    def _insert(
        self, tokens: Sequence[int], count: int, capacity: int
    ) -> tuple[list[Key], list[tuple[int, int]]]:
        """Enter `count` blocks; returns the path and the new (block number, pool index)."""
        path: list[Key] = []
        fresh: list[tuple[int, int]] = []
        parent = 0
        known, _ = self.find(tokens[: count * self.block])  # newest now, so not evicted below
        for number in range(count):
            start = number * self.block
            key = (parent, tuple(tokens[start : start + self.block]))
            if number >= len(known):
                self._serial += 1
                index = self._allocate(capacity)
                self._blocks[key] = (self._serial, index)
                fresh.append((number, index))
            parent = self._blocks[key][0]
            path.append(key)
        return path, fresh

    def _allocate(self, capacity: int) -> int:
        if self._used < capacity:
            self._used += 1
            return self._used - 1
        return self._blocks.popitem(last=False)[1][1]
