"""Attention over a packed row: causal per segment, with shared prefixes computed once.

Registered with transformers as `palestra_packed`. A model set to it still works as before
for ordinary calls (it then behaves as `sdpa`); given `palestra_plan=Plan(...)` it attends
by segments. No mask of row x row size ever exists: a segment without a parent is plain
causal attention, and a child of P context tokens needs one L x (P + L) mask, shared by
its siblings, all heads and all layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from .packing import Segment

if TYPE_CHECKING:
    from transformers import PreTrainedModel

NAME = "palestra_packed"
PLAN = "palestra_plan"  # keyword that carries the plan through the model's forward


class Plan:
    """How the segments of one packed row attend.

    Siblings of similar length are attended to as one block, right-padded to the longest;
    causality hides the padding from every real token. `waste` bounds padded / real length.
    """

    def __init__(self, segments: Sequence[Segment], waste: float = 1.1) -> None:
        self.lengths = [s.length for s in segments]
        self.context = [_ancestors(segments, i) for i in range(len(segments))]
        self.blocks = self._blocks(segments, waste)
        self._masks: dict[tuple[int, int, int | None], Tensor] = {}

    def _blocks(self, segments: Sequence[Segment], waste: float) -> list[list[int]]:
        """Lists of segment indices that share a parent and are close in length."""
        order = sorted(range(len(segments)), key=lambda i: (segments[i].parent, -self.lengths[i]))
        blocks: list[list[int]] = []
        for i in order:
            head = blocks[-1][0] if blocks else None
            together = (
                head is not None
                and segments[head].parent == segments[i].parent
                and self.lengths[head] <= waste * self.lengths[i]
            )
            if together:
                blocks[-1].append(i)
            else:
                blocks.append([i])
        return blocks

    def mask(self, length: int, context: int, window: int | None, device: Any) -> Tensor | None:
        """[length, context + length] bool, or None where plain causal attention will do."""
        if window is not None and window >= context + length:
            window = None
        if context == 0 and window is None:
            return None
        key = (length, context, window)
        if key not in self._masks:
            query = torch.arange(context, context + length, device=device)[:, None]
            keys = torch.arange(context + length, device=device)[None, :]
            allowed = keys <= query
            self._masks[key] = allowed if window is None else allowed & (keys > query - window)
        return self._masks[key]


def _ancestors(segments: Sequence[Segment], index: int) -> list[int]:
    """Indices on the path from the root to the parent of segment `index`."""
    path: list[int] = []
    parent = segments[index].parent
    while parent >= 0:
        path.append(parent)
        parent = segments[parent].parent
    return path[::-1]


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The function transformers calls. query [1, H, T, d], key and value [1, K, T, d].

    Returns [1, T, H, d]. Dropout is ignored when a plan is given: the log-probs must be
    those of the policy that sampled.
    """
    plan: Plan | None = kwargs.pop(PLAN, None)
    if plan is None:
        kwargs |= {"scaling": scaling, "sliding_window": sliding_window}
        output, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return output, None
    unsupported = [k for k in ("softcap", "s_aux", "position_bias") if kwargs.get(k) is not None]
    if unsupported:
        raise ValueError(f"packed attention does not implement {unsupported}: use padded batches")
    # One split each: its backward is one concatenation, where slices would each add a row.
    queries = torch.split(query, plan.lengths, dim=2)
    keys = torch.split(key, plan.lengths, dim=2)
    values = torch.split(value, plan.lengths, dim=2)
    pieces: list[Tensor] = [query] * len(plan.lengths)
    for block in plan.blocks:
        context = plan.context[block[0]]
        output = _attend(
            _stack([queries[i] for i in block]),
            _extend(keys, context, block),
            _extend(values, context, block),
            plan,
            scaling,
            sliding_window,
        )
        for i, row in zip(block, output.transpose(1, 2).unbind(0), strict=True):
            pieces[i] = row[: plan.lengths[i]]
    return torch.cat(pieces).unsqueeze(0), None


def _stack(pieces: list[Tensor]) -> Tensor:
    """[n, H, longest, d] from n tensors [1, H, l, d], padded with zeros on the right."""
    longest = max(p.shape[2] for p in pieces)
    if len(pieces) == 1:
        return pieces[0]
    return torch.cat([F.pad(p, (0, 0, 0, longest - p.shape[2])) for p in pieces])


def _extend(pieces: Sequence[Tensor], context: list[int], block: list[int]) -> Tensor:
    """Keys or values of a block, those of its context in front: [n, K, P + longest, d]."""
    own = _stack([pieces[i] for i in block])
    shared = [pieces[i].expand(len(block), -1, -1, -1) for i in context]
    return torch.cat([*shared, own], dim=2) if shared else own


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    plan: Plan,
    scaling: float | None,
    window: int | None,
) -> Tensor:
    length = query.shape[2]
    mask = plan.mask(length, key.shape[2] - length, window, query.device)
    groups = query.shape[1] // key.shape[1]
    if groups > 1 and mask is not None and query.device.type != "cpu":
        # Off the CPU the fused kernels take a mask or grouped heads, not both.
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        groups = 1
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        scale=scaling,
        enable_gqa=groups > 1,
    )


def enable(model: PreTrainedModel) -> None:
    """Set `model` to packed attention (in place).

    Raises:
        ValueError: the architecture does not take attention functions.
    """
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def packed_kwargs(plan: Plan, device: torch.device) -> dict[str, Any]:
    """Arguments that make a model's forward use `plan`.

    A mask that already has four dimensions is handed through as it is by transformers, so
    none is built; its content is never read.
    """
    return {PLAN: plan, "attention_mask": torch.ones(1, 1, 1, 1, device=device), "use_cache": False}
