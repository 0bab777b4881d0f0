"""The operators of a CPU with a compiler: see `kernels.py`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .backend import Segment
from .kernels import AttentionCall, Kernels
from .operators import Attend, TorchOperators
from .weights import Layer

# Length of a row up to which the tokens of a prompt attend one by one: up to twice as fast as
# torch's kernel for them. It is the better one for thousands of tokens.
_SHORT = 512


class NativeOperators(TorchOperators):
    """See `operators.Operators`. Long prompts attend through torch."""

    def __init__(self, kernels: Kernels, plain: TorchOperators) -> None:
        super().__init__(plain.shape, plain.cache, plain.rotation)
        self.kernels = kernels

    def norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return self.kernels.rms_norm(x, weight, self.shape.eps)

    def swiglu(self, gate_up: Tensor) -> Tensor:
        return self.kernels.swiglu(gate_up)

    def decode(self, places: Tensor) -> Attend:
        return self._attend(torch.arange(len(places)), places)

    def prefill(self, segments: Sequence[Segment]) -> Attend:
        if max(s.start + len(s.tokens) for s in segments) > _SHORT:
            return super().prefill(segments)
        rows = [s.row for s in segments for _ in s.tokens]
        places = [s.start + i for s in segments for i in range(len(s.tokens))]
        return self._attend(torch.tensor(rows), torch.tensor(places))

    def _attend(self, rows: Tensor, places: Tensor) -> Attend:
        shape = self.shape
        call = AttentionCall(
            tokens=len(places),
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            dim=shape.head_dim,
            capacity=self.cache.length,
            scale=shape.scale,
            eps=shape.eps,
            rows=rows.data_ptr(),
            places=places.data_ptr(),
            rotation=self.rotation.data_ptr(),
        )

        def attend(number: int, layer: Layer, qkv: Tensor) -> Tensor:
            assert len(rows) == len(places)  # they must live as long as the call points to them
            call.window = shape.windows[number] or 0
            call.qk_norm = None if layer.qk_norm is None else layer.qk_norm.data_ptr()
            return self.kernels.attention(call, qkv, *self.cache.layers[number])

        return attend
