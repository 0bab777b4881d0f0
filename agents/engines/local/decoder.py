"""A hand-written forward pass for Llama-type models over a static key/value cache.

Covers Llama, Mistral, Qwen2 and Qwen3: RMSNorm, rotary positions, grouped-query attention,
optional query/key norms and biases, SwiGLU, tied or untied head. Against the Hugging Face
forward it launches a third of the kernels: query, key and value are one product, so are gate
and up, the residual is added inside the product before it, and rotation is one complex
multiplication (head dimensions are reordered at load time so that pairs stand together).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .backend import Segment
from .cache import KVCache
from .sampling import Scorer, Scores
from .weights import Layer, Shape, Weights

_PREFILL_TOKENS = 2048  # bounds the activations of one prefill pass
Attend = Callable[[int, Tensor], Tensor]


@dataclass(slots=True)
class _Run:
    """Neighbouring rows with the same start and token count: one attention call."""

    row: int
    rows: int
    start: int
    count: int


class Decoder:
    """See `backend.Backend`. `model` is only read; the caller may drop it afterwards."""

    def __init__(
        self, model: Any, dtype: torch.dtype, device: torch.device, context_length: int
    ) -> None:
        self.shape = shape = Shape.of(model.config)
        self.context_length = context_length
        self.dtype, self.device = dtype, device
        self.cache = KVCache(shape.layers, shape.kv_heads, shape.head_dim, dtype, device)
        self.weights = Weights(model, shape, dtype, device)
        self.rotation = _rotation_table(model, context_length, device)
        self.scorer = Scorer(shape.vocab)

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self.weights.load(tensors)

    def copy(self, source: int, target: int, length: int) -> None:
        self.cache.reserve(target + 1, length)
        self.cache.copy(source, target, length)

    move = copy

    def read(self, row: int, length: int) -> Tensor | None:
        return self.cache.read(row, 0, length)

    def write(self, row: int, data: Tensor) -> None:
        self.cache.reserve(row + 1, data.shape[3])
        self.cache.write(row, data)

    def score(self, states: Tensor, inverse_temperature: Tensor) -> Scores:
        tiles = (head(states) for head in self.weights.head)
        return self.scorer(tiles, inverse_temperature)

    def decode(self, tokens: Sequence[int], positions: Sequence[int]) -> Tensor:
        self.cache.fit(len(tokens), max(positions) + 1)
        at = torch.tensor(positions, device=self.device)
        rows = torch.arange(len(tokens), device=self.device)
        masks = {w: self._decode_mask(at, w) for w in set(self.shape.windows)}

        def attend(layer: int, query: Tensor) -> Tensor:
            mask = masks[self.shape.windows[layer]]
            return self._attend_step(layer, query, mask)

        return self._forward(torch.tensor(tokens, device=self.device), rows, at, attend)

    def prefill(self, segments: Sequence[Segment], *, every: bool = False) -> Tensor:
        outputs: list[Tensor] = []
        for batch in _batches(segments):
            states = self._prefill_batch([piece for piece, _ in batch])
            if not every:
                ends = accumulate(len(piece.tokens) for piece, _ in batch)
                last = [
                    end - 1 for end, (_, ends_here) in zip(ends, batch, strict=True) if ends_here
                ]
                states = states[torch.tensor(last, dtype=torch.long, device=self.device)]
            outputs.append(states)
        return torch.cat(outputs)

    def _prefill_batch(self, batch: Sequence[Segment]) -> Tensor:
        end = max(s.start + len(s.tokens) for s in batch)
        self.cache.reserve(max(s.row for s in batch) + 1, end + 1)
        tokens = [t for s in batch for t in s.tokens]
        rows = [s.row for s in batch for _ in s.tokens]
        places = [s.start + i for s in batch for i in range(len(s.tokens))]
        runs = _runs(batch)
        ids, row_ids, at = (torch.tensor(x, device=self.device) for x in (tokens, rows, places))

        def attend(layer: int, query: Tensor) -> Tensor:
            return self._attend_runs(layer, query, runs)

        return self._forward(ids, row_ids, at, attend)

    def _forward(self, ids: Tensor, rows: Tensor, at: Tensor, attend: Attend) -> Tensor:
        """Final hidden states [N, H] of N tokens at positions `at` of `rows`."""
        rotation = self.rotation[at].unsqueeze(1)
        slots = self.cache.slots(rows, at)
        x = self.weights.embedding[ids]
        for number, layer in enumerate(self.weights.layers):
            query, kv = self._project(layer, x, rotation)
            self.cache.flat[number].index_copy_(0, slots, kv)
            attended = attend(number, query)
            x = layer.output(attended, x)
            gate_up = layer.gate_up(self._norm(x, layer.mlp_norm))
            gate, up = gate_up.chunk(2, -1)
            x = layer.down(F.silu(gate).mul_(up), x)
        return self._norm(x, self.weights.final_norm)

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), weight, self.shape.eps)

    def _project(self, layer: Layer, x: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor]:
        """Rotated queries [N, heads, D]; keys, then values, flattened to [N * 2 kv_heads, D]."""
        shape = self.shape
        qkv = layer.qkv(self._norm(x, layer.attention_norm)).float()
        qkv = qkv.view(len(x), -1, shape.head_dim)
        rotated = shape.heads + shape.kv_heads
        qk, value = qkv[:, :rotated], qkv[:, rotated:]
        if layer.qk_norm is not None:
            qk = F.rms_norm(qk, (shape.head_dim,), None, shape.eps) * layer.qk_norm
        pairs = torch.view_as_complex(qk.reshape(len(x), rotated, -1, 2)) * rotation
        qk = torch.view_as_real(pairs).flatten(-2)
        kv = torch.cat((qk[:, shape.heads :], value), 1).view(-1, shape.head_dim)
        return qk[:, : shape.heads].to(self.dtype), kv.to(self.dtype)

    def _decode_mask(self, at: Tensor, window: int | None) -> Tensor:
        """Additive mask [N * kv_heads, 1, length]: 0 where position `at` may look."""
        columns = torch.arange(self.cache.length, device=self.device)
        allowed = columns <= at[:, None]
        if window is not None:
            allowed &= columns > at[:, None] - window
        mask = torch.zeros(allowed.shape, dtype=self.dtype, device=self.device)
        mask.masked_fill_(~allowed, -torch.inf)
        return mask.repeat_interleave(self.shape.kv_heads, 0).unsqueeze(1)

    def _attend_step(self, layer: int, query: Tensor, mask: Tensor) -> Tensor:
        """One query per row. Two batched products beat fused attention here (see bench/decode)."""
        shape = self.shape
        rows = len(query)
        keys, values = self.cache.layers[layer][:, :rows].flatten(1, 2)
        q = query.reshape(rows * shape.kv_heads, -1, shape.head_dim)
        scores = torch.baddbmm(mask, q, keys.transpose(1, 2), alpha=shape.scale)
        return torch.bmm(torch.softmax(scores, -1), values).view(rows, -1)

    def _attend_runs(self, layer: int, query: Tensor, runs: Sequence[_Run]) -> Tensor:
        outputs = []
        offset = 0
        for run in runs:
            size = run.rows * run.count
            part = query[offset : offset + size]
            outputs.append(self._attend_run(layer, part, run))
            offset += size
        return torch.cat(outputs)

    def _attend_run(self, layer: int, query: Tensor, run: _Run) -> Tensor:
        """Causal attention of neighbouring rows that have the same start and length."""
        shape = self.shape
        end = run.start + run.count
        kv = self.cache.layers[layer][:, run.row : run.row + run.rows, :, :end]
        q = query.view(run.rows, run.count, shape.heads, shape.head_dim).transpose(1, 2)
        window = shape.windows[layer]
        plain = run.start == 0 and (window is None or window >= end)
        mask = None if plain else self._prefill_mask(run, window)
        out = F.scaled_dot_product_attention(
            q, kv[0], kv[1], mask, is_causal=plain, scale=shape.scale, enable_gqa=True
        )
        return out.transpose(1, 2).reshape(run.rows * run.count, -1)

    def _prefill_mask(self, run: _Run, window: int | None) -> Tensor:
        at = torch.arange(run.start, run.start + run.count, device=self.device)[:, None]
        columns = torch.arange(run.start + run.count, device=self.device)
        allowed = columns <= at
        return allowed if window is None else allowed & (columns > at - window)


def _batches(segments: Sequence[Segment]) -> list[list[tuple[Segment, bool]]]:
    """Pieces of at most `_PREFILL_TOKENS` tokens a batch; True marks the end of a segment."""
    batches: list[list[tuple[Segment, bool]]] = [[]]
    room = _PREFILL_TOKENS
    for segment in segments:
        done, total = 0, len(segment.tokens)
        while done < total:
            if room == 0:
                batches.append([])
                room = _PREFILL_TOKENS
            size = min(room, total - done)
            tokens = segment.tokens[done : done + size]
            piece = Segment(segment.row, segment.start + done, tokens)
            done, room = done + size, room - size
            batches[-1].append((piece, done == total))
    return batches


def _runs(batch: Sequence[Segment]) -> list[_Run]:
    runs: list[_Run] = []
    for piece in batch:
        count = len(piece.tokens)
        last = runs[-1] if runs else None
        if last and (last.row + last.rows, last.start, last.count) == (
            piece.row,
            piece.start,
            count,
        ):
            last.rows += 1
        else:
            runs.append(_Run(piece.row, 1, piece.start, count))
    return runs


def _rotation_table(model: Any, length: int, device: torch.device) -> Tensor:
    """cos + i sin for every position, [length, head_dim / 2], from the model's own module.

    Taking it from there covers every fixed frequency scaling (linear, Llama 3, YaRN).
    """
    rotary = model.model.rotary_emb
    where = rotary.inv_freq.device
    like = torch.zeros(1, dtype=torch.float32, device=where)
    cos, sin = rotary(like, torch.arange(length, device=where)[None])
    half = cos.shape[-1] // 2
    return torch.complex(cos[0, :, :half].float(), sin[0, :, :half].float()).to(device)
