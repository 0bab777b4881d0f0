"""The parts of a forward pass that are not matrix products, written with torch's operators.

They run on every device. On a CPU `kernels.Kernels` takes their place where it can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from .backend import Segment
from .cache import KVCache
from .weights import Layer, Shape

# layer number, its weights, [N, (heads + 2 kv_heads) * D] -> [N, heads * D]
Attend = Callable[[int, Layer, Tensor], Tensor]


class Operators(Protocol):
    """What the decoder needs besides linear layers."""

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm of [N, H]."""
        ...

    def swiglu(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up of [N, 2 * width]: [N, width]."""
        ...

    def decode(self, places: Tensor) -> Attend:
        """Attention for one token in each of rows 0 .. N-1, at `places` [N] of its row."""
        ...

    def prefill(self, segments: Sequence[Segment]) -> Attend:
        """Causal attention for the tokens of `segments`, end to end."""
        ...


@dataclass(slots=True)
class _Run:
    """Neighbouring rows with the same start and token count: one attention call."""

    row: int
    rows: int
    start: int
    count: int


class TorchOperators:
    """See `Operators`. `rotation` is [context, D / 2] complex: cos + i sin of every position."""

    def __init__(self, shape: Shape, cache: KVCache, rotation: Tensor) -> None:
        self.shape, self.cache, self.rotation = shape, cache, rotation
        self.device = rotation.device

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self.shape.eps)

    def swiglu(self, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, -1)
        return F.silu(gate).mul_(up)

    def decode(self, places: Tensor) -> Attend:
        rows = torch.arange(len(places), device=self.device)
        slots = self.cache.slots(rows, places)
        rotation = self.rotation[places].unsqueeze(1)
        masks = {w: self._decode_mask(places, w) for w in set(self.shape.windows)}

        def attend(number: int, layer: Layer, qkv: Tensor) -> Tensor:
            query, key, value = self._split(layer, qkv, rotation)
            keys, values = self.cache.layers[number]
            for new, old in ((key, keys), (value, values)):
                old.view(-1, new.shape[-1]).index_copy_(0, slots, new.flatten(0, 1))
            return self._attend_step(number, query, masks[self.shape.windows[number]]).to(qkv.dtype)

        return attend

    def prefill(self, segments: Sequence[Segment]) -> Attend:
        places = [s.start + i for s in segments for i in range(len(s.tokens))]
        rotation = self.rotation[torch.tensor(places, device=self.device)].unsqueeze(1)
        runs = _runs(segments)
        sizes = [run.rows * run.count for run in runs]

        def attend(number: int, layer: Layer, qkv: Tensor) -> Tensor:
            split = (torch.split(x, sizes) for x in self._split(layer, qkv, rotation))
            parts = zip(runs, *split, strict=True)
            return torch.cat([self._attend_run(number, *part) for part in parts]).to(qkv.dtype)

        return attend

    def _split(self, layer: Layer, qkv: Tensor, rotation: Tensor) -> tuple[Tensor, ...]:
        """Rotated queries [N, heads, D] and keys, and values [N, kv_heads, D]."""
        shape = self.shape
        qkv = qkv.view(len(qkv), -1, shape.head_dim)
        rotated = shape.heads + shape.kv_heads
        qk, value = qkv[:, :rotated].float(), qkv[:, rotated:]
        if layer.qk_norm is not None:
            qk = F.rms_norm(qk, (shape.head_dim,), None, shape.eps) * layer.qk_norm
        pairs = torch.view_as_complex(qk.reshape(len(qk), rotated, -1, 2)) * rotation
        qk = torch.view_as_real(pairs).flatten(-2).to(self.cache.dtype)
        return qk[:, : shape.heads], qk[:, shape.heads :], value.to(self.cache.dtype)

    def _decode_mask(self, at: Tensor, window: int | None) -> Tensor:
        """Additive mask [N * kv_heads, 1, length]: 0 where position `at` may look."""
        columns = torch.arange(self.cache.length, device=self.device)
        allowed = columns <= at[:, None]
        if window is not None:
            allowed &= columns > at[:, None] - window
        mask = torch.zeros(allowed.shape, dtype=self.cache.dtype, device=self.device)
        mask.masked_fill_(~allowed, -torch.inf)
        return mask.repeat_interleave(self.shape.kv_heads, 0).unsqueeze(1)

    def _attend_step(self, number: int, query: Tensor, mask: Tensor) -> Tensor:
        """One query per row: two batched products, 2 to 5 times faster here than fused ones."""
        shape, rows = self.shape, len(query)
        keys, values = (part[:rows].flatten(0, 1) for part in self.cache.layers[number])
        q = query.reshape(rows * shape.kv_heads, -1, shape.head_dim)
        scores = torch.baddbmm(mask, q, keys.transpose(1, 2), alpha=shape.scale)
        return torch.bmm(torch.softmax(scores, -1), values).reshape(rows, -1)

    def _attend_run(self, number: int, run: _Run, *qkv: Tensor) -> Tensor:
        """Causal attention of neighbouring rows that have the same start and length."""
        shape, end = self.shape, run.start + run.count
        query, key, value = (
            x.reshape(run.rows, run.count, -1, shape.head_dim).transpose(1, 2) for x in qkv
        )
        rows, window = slice(run.row, run.row + run.rows), shape.windows[number]
        keys, values = (part[rows] for part in self.cache.layers[number])
        keys[:, :, run.start : end] = key
        values[:, :, run.start : end] = value
        plain = run.start == 0 and (window is None or end <= window)
        if run.start > 0:
            key, value = keys[:, :, :end], values[:, :, :end]
        mask = None if plain else self._prefill_mask(run, window)
        out = F.scaled_dot_product_attention(
            query, key, value, mask, is_causal=plain, scale=shape.scale, enable_gqa=True
        )
        return out.transpose(1, 2).reshape(run.rows * run.count, -1)

    def _prefill_mask(self, run: _Run, window: int | None) -> Tensor:
        at = torch.arange(run.start, run.start + run.count, device=self.device)[:, None]
        columns = torch.arange(run.start + run.count, device=self.device)
        allowed = columns <= at
        return allowed if window is None else allowed & (columns > at - window)


def _runs(segments: Sequence[Segment]) -> list[_Run]:
    runs: list[_Run] = []
    for piece in segments:
        last, count = runs[-1] if runs else None, len(piece.tokens)
        place = (piece.row, piece.start, count)
        if last and (last.row + last.rows, last.start, last.count) == place:
            last.rows += 1
        else:
            runs.append(_Run(piece.row, 1, piece.start, count))
    return runs
