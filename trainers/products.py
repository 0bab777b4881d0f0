"""Float32 matrix products of the trainer on a CPU, through oneDNN.

torch hands them to MKL, which reaches less than half the speed of oneDNN on AMD processors (93
against 220 GFLOP/s on one core of a Zen 5) and about the same on Intel's. Other types and
devices take torch's own way.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

_SMALL = 1 << 20  # multiplications below which the call costs more than the product


def product(x: Tensor, weight: Tensor) -> Tensor:
    """`x @ weight.T` for x [M, K] and weight [N, K]. No gradient is recorded."""
    if not _serves(x, weight):
        return x @ weight.T
    out: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return out


def transposed_product(x: Tensor, y: Tensor) -> Tensor:
    """`x.T @ y` for x [M, N] and y [M, K]: the gradient of a weight. No gradient is recorded."""
    # The kernel reads its second argument in blocks: that is the one worth laying out.
    return product(x.T, y.T) if x.shape[1] <= y.shape[1] else product(y.T, x.T).T


def _serves(x: Tensor, weight: Tensor) -> bool:
    return (
        x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * weight.shape[0] > _SMALL
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        out = product(x.flatten(0, -2), weight)
        if bias is not None:
            out += bias
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        grad = grads[0].flatten(0, -2)
        need_x, need_weight, need_bias = ctx.needs_input_grad
        return (
            product(grad, weight.T).view(x.shape) if need_x else None,
            transposed_product(grad, x.flatten(0, -2)) if need_weight else None,
            grad.sum(0) if need_bias else None,
        )


class Linear(torch.nn.Linear):
    """A linear layer whose products are `product`s."""

    def forward(self, input: Tensor) -> Tensor:
        plain = input.dtype != torch.float32 or torch.is_autocast_enabled(input.device.type)
        if plain or input.device.type != "cpu":
            return F.linear(input, self.weight, self.bias)
        out: Tensor = _Linear.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return out


def speed_up(model: torch.nn.Module) -> None:
    """Make every plain `torch.nn.Linear` of `model` a `Linear`, in place."""
    for module in model.modules():
        if type(module) is torch.nn.Linear:
            module.__class__ = Linear
