"""A hand-written forward pass for Llama-type models over a static key/value cache.

Covers Llama, Mistral, Qwen2 and Qwen3: RMSNorm, rotary positions, grouped-query attention,
optional query/key norms and biases, SwiGLU, tied or untied head. Against the Hugging Face
forward it launches a fifth of the kernels: query, key and value are one product, so are gate
and up, the residual is added inside the product before it, and what lies between the products
is one call each where `kernels.py` finds a compiler.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .backend import Segment
from .cache import KVCache
from .kernels import Kernels, load_kernels
from .native import NativeOperators
from .operators import Attend, Operators, TorchOperators
from .sampling import Scorer, Scores
from .weights import Shape, Weights

_PREFILL_TOKENS = 2048  # bounds the activations of one prefill pass


class Decoder:
    """See `backend.Backend`. `model` is only read; the caller may drop it afterwards."""

    def __init__(
        self, model: Any, dtype: torch.dtype, device: torch.device, context_length: int
    ) -> None:
        self.shape = shape = Shape.of(model.config)
        self.context_length = context_length
        self.dtype, self.device = dtype, device
        kernels = load_kernels() if device.type == "cpu" and dtype in Kernels.dtypes else None
        self.cache = KVCache(
            shape.layers,
            shape.kv_heads,
            shape.head_dim,
            dtype if kernels else _attention_dtype(dtype, device),
            device,
            dense=kernels is None,
        )
        self.weights = Weights(model, shape, dtype, device)
        plain = TorchOperators(shape, self.cache, _rotation_table(model, context_length, device))
        self.operators: Operators = NativeOperators(kernels, plain) if kernels else plain
        self.scorer = Scorer(shape.vocab)

    @property
    def row_bytes(self) -> int:
        """Cache of one request that fills the context."""
        shape, size = self.shape, self.cache.dtype.itemsize
        return 2 * shape.layers * shape.kv_heads * shape.head_dim * size * self.context_length

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        self.weights.load(tensors)

    def clear(self) -> None:
        self.cache.clear()

    def copy(self, source: int, target: int, length: int) -> None:
        self.cache.reserve(target + 1, length)
        self.cache.copy(source, target, length)

    move = copy

    def read(self, row: int, start: int, stop: int) -> Tensor | None:
        return self.cache.read(row, start, stop)

    def write(self, row: int, data: Tensor) -> None:
        self.cache.reserve(row + 1, data.shape[3])
        self.cache.write(row, data)

    def score(self, states: Tensor, inverse_temperature: Tensor | None) -> Scores:
        tiles = (head(states) for head in self.weights.head)
        return self.scorer(tiles, states, inverse_temperature)

    def decode(self, tokens: Tensor, places: Tensor, longest: int) -> Tensor:
        self.cache.fit(len(tokens), longest + 1)
        return self._forward(tokens, self.operators.decode(places))

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
        tokens = torch.tensor([t for s in batch for t in s.tokens], device=self.device)
        return self._forward(tokens, self.operators.prefill(batch))

    def _forward(self, tokens: Tensor, attend: Attend) -> Tensor:
        """Final hidden states [N, H] of N tokens."""
        norm, swiglu = self.operators.norm, self.operators.swiglu
        x = F.embedding(tokens, self.weights.embedding)
        for number, layer in enumerate(self.weights.layers):
            qkv = layer.qkv(norm(x, layer.attention_norm))
            x = layer.output(attend(number, layer, qkv), x)
            gate_up = layer.gate_up(norm(x, layer.mlp_norm))
            x = layer.down(swiglu(gate_up), x)
        return norm(x, self.weights.final_norm)


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


def _attention_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """Type of keys and values. On a CPU, bfloat16 batched products use one thread only.

    They halve the memory traffic, so with two threads both types are about even.
    """
    many = device.type == "cpu" and torch.get_num_threads() > 2
    return torch.float32 if many else dtype


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
