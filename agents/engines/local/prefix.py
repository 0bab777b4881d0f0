"""Reuse of keys and values between requests: later turns, group members, shared prompts."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

Key = tuple[int, tuple[int, ...]]  # (serial of the block before, the tokens of this block)


class PrefixCache:
    """Key/value blocks of past requests, found by the tokens that lead up to them.

    Blocks form a tree: a block's key is its parent's serial number and its own tokens, so a
    hit is exact (no hashes that could collide). The least recently used leaf goes first.
    The scheme is vLLM's automatic prefix caching (Kwon et al. 2023) on one preallocated pool.
    """

    block = 16

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._pool: Tensor | None = None
        self.clear()

    def clear(self) -> None:
        # key -> (serial number, index in the pool), least recently used first
        self._blocks: OrderedDict[Key, tuple[int, int]] = OrderedDict()
        self._serial = 0
        self._used = 0

    def _capacity(self, kv: Tensor) -> int:
        return self.max_bytes // (kv[..., :1, :].numel() * self.block * kv.element_size())

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

    def load(self, indices: list[int]) -> Tensor:
        """The cached keys and values: [layers, 2, kv_heads, 16 * len(indices), head_dim]."""
        assert self._pool is not None
        picked = self._pool[torch.tensor(indices, device=self._pool.device)]
        return picked.movedim(0, 3).flatten(3, 4)

    def store(self, tokens: Sequence[int], kv: Tensor) -> None:
        """Keep the full blocks of `tokens`, whose keys and values are `kv`.

        `kv` has shape [layers, 2, kv_heads, >= len(tokens), head_dim].
        """
        capacity = self._capacity(kv)
        count = min(len(tokens) // self.block, capacity)
        if count == 0:
            return
        path, fresh = self._insert(tokens, count, capacity)
        self._touch(path)
        if not fresh:
            return
        layers, two, heads, _, dim = kv.shape
        if self._pool is None:  # pages of it are only touched when a block is written
            self._pool = kv.new_empty(capacity, layers, two, heads, self.block, dim)
        full = kv[..., : count * self.block, :]
        blocks = full.reshape(layers, two, heads, count, self.block, dim).movedim(3, 0)
        index = torch.tensor([i for _, i in fresh], device=kv.device)
        self._pool[index] = blocks[fresh[0][0] :]

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
