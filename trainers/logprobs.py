"""Log-probs of trained tokens, without ever holding their logits.

The output head is the largest matrix product and its logits the largest tensor of a
training step (4,096 tokens x 152k words = 2.5 GB in float32). Here the vocabulary is
walked in tiles with a running log-sum-exp, and the tiles are computed again in the
backward pass. Products are in the weights' dtype; sums across tiles are in float32 (or
float64), since accumulation in bfloat16 drifts.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from . import attention
from .packing import MicroBatch, Segment
from .products import product, transposed_product

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

TOKEN_BLOCK = 2048  # rows of hidden states worked on at once
# Logits alive at once: few enough to stay in a CPU's caches, enough to fill a GPU.
TILE_ELEMENTS = {"cpu": 1 << 20, "cuda": 1 << 26}


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float = 1.0,
    entropy: bool = False,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None]:
    """log softmax((hidden W^T + b) / temperature) at `targets`, differentiable.

    Args:
        hidden: [m, D] states that predict the tokens.
        weight: [V, D] of the head; may be tied to the embedding.
        targets: [m] token ids.
        bias: [V] or None.
        entropy: also return the entropy of each distribution (no gradient).
        dtype: of the matrix products; the weights' own by default.

    Returns:
        ([m] log-probs, [m] entropies or None) in float32, or float64 for float64 weights.
    """
    logprobs, entropies = _TokenLogprobs.apply(  # type: ignore[no-untyped-call]
        hidden, weight, bias, targets, 1.0 / temperature, entropy, dtype or weight.dtype
    )
    return logprobs, entropies if entropy else None


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        entropy: bool,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        total = hidden.new_empty(len(hidden), dtype=wide)
        picked = torch.empty_like(total)
        entropies = torch.empty_like(total) if entropy else total.new_empty(0)
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in _blocks(len(hidden)):
                states, ids = hidden[rows].to(dtype), targets[rows]
                stats = _scan(states, weight, bias, ids, scale, entropy, wide)
                total[rows], picked[rows], mean = stats
                if entropy:
                    entropies[rows] = total[rows] - mean
        ctx.save_for_backward(hidden, weight, bias, targets, total)
        ctx.scale, ctx.dtype = scale, dtype
        ctx.mark_non_differentiable(entropies)
        return picked - total, entropies

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, total = ctx.saved_tensors
        grad = grads[0] * ctx.scale
        dtype, wide = ctx.dtype, total.dtype
        d_hidden = torch.zeros_like(hidden, dtype=wide) if ctx.needs_input_grad[0] else None
        d_weight = torch.zeros_like(weight, dtype=wide) if ctx.needs_input_grad[1] else None
        d_bias = torch.zeros_like(bias, dtype=wide) if ctx.needs_input_grad[2] else None
        for rows in _blocks(len(hidden)):
            states, ids, g = hidden[rows].to(dtype), targets[rows], grad[rows]
            for tile in _tiles(len(weight), states):
                part = weight[tile].to(dtype)
                d = _logits(states, part, None if bias is None else bias[tile], ctx.scale, wide)
                # d loss / d logit = g (1[target] - softmax), all in place.
                d.sub_(total[rows, None]).exp_().mul_(-g[:, None])
                _add_at_targets(d, ids, tile, g)
                small = d.to(dtype)
                if d_hidden is not None:
                    d_hidden[rows] += product(small, part.T)
                if d_weight is not None:
                    _accumulate(d_weight[tile], small, states)
                if d_bias is not None:
                    d_bias[tile] += d.sum(0)
        return (
            None if d_hidden is None else d_hidden.to(hidden.dtype),
            None if d_weight is None else d_weight.to(weight.dtype),
            None if d_bias is None else d_bias.to(bias.dtype),
            None,
            None,
            None,
            None,
        )


def _scan(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    ids: Tensor,
    scale: float,
    entropy: bool,
    wide: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """One pass over the vocabulary: log-sum-exp, target logit, mean logit under the softmax."""
    top = states.new_full((len(states),), -torch.inf, dtype=wide)
    mass = torch.zeros_like(top)  # sum of exp(logit - top)
    moment = torch.zeros_like(top)  # sum of exp(logit - top) * logit
    picked = torch.zeros_like(top)
    for tile in _tiles(len(weight), states):
        part = weight[tile].to(states.dtype)
        logits = _logits(states, part, None if bias is None else bias[tile], scale, wide)
        inside = (ids >= tile.start) & (ids < tile.stop)
        column = (ids - tile.start).clamp(0, len(part) - 1)
        picked = torch.where(inside, logits.gather(1, column[:, None])[:, 0], picked)
        higher = torch.maximum(top, logits.amax(1))
        shrink = torch.exp(top - higher)
        if entropy:
            weights = torch.exp(logits - higher[:, None])
            moment = moment * shrink + torch.linalg.vecdot(weights, logits)
        else:
            weights = logits.sub_(higher[:, None]).exp_()
        mass = mass * shrink + weights.sum(1)
        top = higher
    return top + mass.log(), picked, moment / mass


def _logits(
    states: Tensor, part: Tensor, bias: Tensor | None, scale: float, wide: torch.dtype
) -> Tensor:
    logits = product(states, part).to(wide)
    if bias is not None:
        logits += bias.to(wide)
    return logits.mul_(scale) if scale != 1.0 else logits


def _add_at_targets(d: Tensor, ids: Tensor, tile: slice, grad: Tensor) -> None:
    inside = torch.nonzero((ids >= tile.start) & (ids < tile.stop))[:, 0]
    d[inside, ids[inside] - tile.start] += grad[inside]


def _accumulate(total: Tensor, d: Tensor, states: Tensor) -> None:
    """total += d^T states."""
    total += transposed_product(d, states)


def _blocks(rows: int) -> Iterator[slice]:
    for start in range(0, rows, TOKEN_BLOCK):
        yield slice(start, min(start + TOKEN_BLOCK, rows))


def _tiles(words: int, states: Tensor) -> Iterator[slice]:
    """The vocabulary in pieces, for a block of `states`."""
    elements = TILE_ELEMENTS.get(states.device.type, TILE_ELEMENTS["cuda"])
    width = max(elements // max(len(states), 1), 512)
    for start in range(0, words, width):
        yield slice(start, min(start + width, words))


def score(
    model: PreTrainedModel,
    micro: MicroBatch,
    *,
    temperature: float = 1.0,
    entropy: bool = False,
    dtype: torch.dtype | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs [m] (and entropies) of the trained tokens of one micro-batch.

    A packed micro-batch needs a model set up by `attention.enable`. A padded one works
    with any causal model, at the price of padding and of its whole logits.
    """
    device = model.device
    inputs = {
        "input_ids": torch.as_tensor(micro.input_ids, device=device),
        "position_ids": torch.as_tensor(micro.position_ids, device=device),
    }
    sources = torch.as_tensor(micro.sources, device=device)
    targets = torch.as_tensor(micro.targets, device=device)
    if micro.padding_mask is not None:
        mask = torch.as_tensor(micro.padding_mask, device=device)
        logits = model(**inputs, attention_mask=mask, use_cache=False).logits
        return _from_logits(logits.flatten(0, 1)[sources], targets, temperature, entropy)
    plan = attention.packed_kwargs(attention.Plan(micro.segments), device)
    states = model.base_model(**inputs, **plan).last_hidden_state
    head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    return token_logprobs(
        states[0].index_select(0, sources),
        head.weight,
        targets,
        bias=getattr(head, "bias", None),
        temperature=temperature,
        entropy=entropy,
        dtype=dtype,
    )


def _from_logits(
    logits: Tensor, targets: Tensor, temperature: float, entropy: bool
) -> tuple[Tensor, Tensor | None]:
    wide = torch.float64 if logits.dtype == torch.float64 else torch.float32
    logs = torch.log_softmax(logits.to(wide) / temperature, dim=-1)
    picked = logs.gather(1, targets[:, None])[:, 0]
    if not entropy:
        return picked, None
    with torch.no_grad():
        return picked, -(logs.exp() * logs).sum(-1)


def can_pack(model: PreTrainedModel) -> bool:
    """Set `model` to packed attention if that gives the log-probs its own forward gives.

    Where it does not (recurrent layers, attention sinks, logit soft caps), the model is left
    as it was and a warning names the reason.
    """
    before = model.config._attn_implementation
    try:
        reason = _packing_fault(model)
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {error}"
    if not reason:
        return True
    if model.config._attn_implementation != before:
        model.set_attn_implementation(before)
    log.warning("%s trains on padded batches: %s", type(model).__name__, reason)
    return False


@torch.no_grad()
def _packing_fault(model: PreTrainedModel) -> str:
    """Why packing is wrong for `model`, or nothing; tried on three short sequences."""
    if getattr(model.config, "final_logit_softcapping", None):
        return "it soft-caps its logits"
    packed, padded = _probes(model.config.vocab_size)
    expected, _ = score(model, padded)
    attention.enable(model)
    values, _ = score(model, packed)
    low = model.dtype in (torch.bfloat16, torch.float16)
    gap = float((values - expected).abs().max())
    if not gap <= (0.2 if low else 1e-3):
        return f"its log-probs differ by {gap:.3g} when packed"
    # Sharper than the gap: the other sequences must not feel a change in the first at all.
    packed.input_ids[0, 4:7] = packed.input_ids[0, [6, 4, 5]]
    leak = float((score(model, packed)[0] - values)[3:].abs().max())
    return f"packed neighbours leak {leak:.3g}" if leak > (2e-2 if low else 1e-5) else ""


def _probes(vocab_size: int) -> tuple[MicroBatch, MicroBatch]:
    """The same three sequences packed with a shared prefix, and padded."""
    ids = np.arange(1, 15) * 7919 % vocab_size  # prefix 0:4, a 4:7, b 7:9, c 9:14
    rows = [ids[[0, 1, 2, 3, 4, 5, 6]], ids[[0, 1, 2, 3, 7, 8]], ids[9:14]]
    wide = np.zeros((3, 7), dtype=np.int64)
    mask = np.zeros((3, 7), dtype=np.bool_)
    for i, row in enumerate(rows):
        wide[i, : len(row)], mask[i, : len(row)] = row, True
    targets = np.concatenate([rows[0][4:], rows[1][4:], rows[2][1:]])
    positions = np.concatenate([np.arange(7), [4, 5], np.arange(5)])
    segments = (Segment(4), Segment(3, 0), Segment(2, 0), Segment(5))
    packed_from = np.array([3, 4, 5, 3, 7, 9, 10, 11, 12])
    padded_from = np.array([3, 4, 5, 10, 11, 14, 15, 16, 17])
    index = np.arange(len(targets))
    columns = np.broadcast_to(np.arange(7), wide.shape).copy()
    return (
        MicroBatch(ids[None], positions[None], segments, None, packed_from, targets, index),
        MicroBatch(wide, columns, (), mask, padded_from, targets, index),
    )
