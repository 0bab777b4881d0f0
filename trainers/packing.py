"""From a batch to padding-free micro-batches in which shared prefixes appear once.

The members of a group are merged into a radix tree of token runs (`Segment`s). A packed
row holds every run once; a run attends to the runs on its path to the root and causally
to itself (`attention.py`). Training reads (source, target) pairs: the position whose
hidden state predicts a trained token, and the token's id. Two members that share a
source but not a target are therefore nothing special.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from .batching import Batch, Ints


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of packed tokens that attends to its ancestors' tokens and causally to itself.

    `parent` is the index of the segment it continues (always an earlier one), or -1.
    """

    length: int
    parent: int = -1


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """What one forward pass sees.

    Attributes:
        input_ids / position_ids: [R, C]; R is 1 unless padded.
        segments: the plan of the packed row; empty when padded.
        padding_mask: [R, C] true on real tokens when padded, else None.
        sources: [m] flat position in [R * C] whose hidden state predicts the token.
        targets: [m] the token's id.
        index: [m] the token's place in the batch's [T] arrays.
    """

    input_ids: Ints
    position_ids: Ints
    segments: tuple[Segment, ...]
    padding_mask: NDArray[np.bool_] | None
    sources: Ints
    targets: Ints
    index: Ints

    @property
    def num_tokens(self) -> int:
        """Tokens forwarded, padding included."""
        return self.input_ids.size


@dataclass(frozen=True, slots=True)
class _Tree:
    """Runs of one group. `spans[i]` = (member, start, stop) whose tokens run i holds."""

    segments: list[Segment]
    spans: list[tuple[int, int, int]]
    paths: dict[int, list[int]]  # member -> its runs from the root

    @property
    def size(self) -> int:
        return sum(s.length for s in self.segments)


def micro_batches(
    batch: Batch,
    max_tokens: int,
    *,
    share_prefix: bool = True,
    min_shared: int = 16,
    padded: bool = False,
    only: Ints | None = None,
) -> Iterator[MicroBatch]:
    """Cut `batch` into packs of at most `max_tokens` forwarded tokens.

    A sequence longer than that goes alone. Sequences keep their order.

    Args:
        share_prefix: tokens that several members of a group start with appear once.
        min_shared: shortest common run worth a segment of its own, in tokens.
        padded: rectangular right-padded batches instead, for models that cannot pack.
        only: indices of the sequences to cover (all by default).
    """
    chosen = np.arange(batch.num_sequences) if only is None else only
    shared = min_shared if share_prefix else 0
    for pack in _packs(batch, chosen.tolist(), max_tokens, shared, padded):
        yield _padded(batch, pack) if padded else _packed(batch, pack, shared)


def _packs(
    batch: Batch, chosen: list[int], max_tokens: int, min_shared: int, padded: bool
) -> Iterator[list[int]]:
    pack: list[int] = []
    closed = 0  # tokens of the pack's finished groups
    open_group: list[int] = []
    for s in chosen:
        if open_group and batch.groups[open_group[0]] != batch.groups[s]:
            closed += 0 if padded else _tree(batch, open_group, min_shared).size
            open_group = []
        trial = [*open_group, s]
        if padded:
            cost = (len(pack) + 1) * int(batch.lengths[[*pack, s]].max())
        else:
            cost = closed + _tree(batch, trial, min_shared).size
        if pack and cost > max_tokens:
            yield pack
            pack, closed, trial = [], 0, [s]
        pack.append(s)
        open_group = trial
    if pack:
        yield pack


def _tree(batch: Batch, members: Sequence[int], min_shared: int) -> _Tree:
    """The radix tree of these sequences; runs shorter than `min_shared` are not shared."""
    starts = batch.starts
    ids = {s: batch.token_ids[starts[s] : starts[s] + batch.lengths[s]] for s in members}
    # Big-endian bytes of non-negative integers sort as the integers do.
    order = sorted(members, key=lambda s: ids[s].astype(">i8").tobytes())
    common = [_common(ids[a], ids[b]) for a, b in pairwise(order)]
    tree = _Tree([], [], {s: [] for s in members})

    def add(run: range, start: int, stop: int, parent: int) -> int:
        tree.segments.append(Segment(stop - start, parent))
        tree.spans.append((order[run[0]], start, stop))
        for i in run:
            tree.paths[order[i]].append(len(tree.segments) - 1)
        return len(tree.segments) - 1

    def grow(run: range, start: int, parent: int) -> None:
        """Sort the members `run`, equal up to `start`, into runs that share what follows."""
        first = run[0]
        for i in run:
            if i + 1 in run and min_shared and common[i] - start >= min_shared:
                continue
            part = range(first, i + 1)
            first = i + 1
            stop = min((common[j] for j in part[:-1]), default=len(ids[order[i]]))
            if stop > start:
                node = add(part, start, stop, parent)
                if len(part) > 1:
                    grow(part, stop, node)

    grow(range(len(order)), 0, -1)
    return tree


def _common(a: Ints, b: Ints) -> int:
    """Length of the longest common prefix."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n


def _packed(batch: Batch, pack: list[int], min_shared: int) -> MicroBatch:
    ids: list[Ints] = []
    positions: list[Ints] = []
    segments: list[Segment] = []
    place = np.zeros(batch.num_tokens, dtype=np.int64)  # batch token -> packed position
    starts = batch.starts
    offset = 0
    for group in np.unique(batch.groups[pack]):
        members = [s for s in pack if batch.groups[s] == group]
        tree = _tree(batch, members, min_shared)
        base = len(segments)
        where: list[int] = []
        for segment, (member, start, stop) in zip(tree.segments, tree.spans, strict=True):
            begin = starts[member]
            ids.append(batch.token_ids[begin + start : begin + stop])
            positions.append(np.arange(start, stop))
            parent = segment.parent + base if segment.parent >= 0 else -1
            segments.append(Segment(segment.length, parent))
            where.append(offset)
            offset += segment.length
        for member in members:
            for run in tree.paths[member]:
                _, start, stop = tree.spans[run]
                begin = starts[member]
                place[begin + start : begin + stop] = where[run] + np.arange(stop - start)
    index = _trained(batch, pack)
    return MicroBatch(
        input_ids=np.concatenate(ids)[None],
        position_ids=np.concatenate(positions)[None],
        segments=tuple(segments),
        padding_mask=None,
        sources=place[index - 1],
        targets=batch.token_ids[index],
        index=index,
    )


def _padded(batch: Batch, pack: list[int]) -> MicroBatch:
    lengths = batch.lengths[pack]
    width = int(lengths.max())
    mask = np.arange(width)[None, :] < lengths[:, None]
    input_ids = np.zeros((len(pack), width), dtype=np.int64)
    input_ids[mask] = np.concatenate([_tokens(batch, s) for s in pack])
    place = np.zeros(batch.num_tokens, dtype=np.int64)
    for row, s in enumerate(pack):
        begin = batch.starts[s]
        place[begin : begin + batch.lengths[s]] = row * width + np.arange(batch.lengths[s])
    index = _trained(batch, pack)
    return MicroBatch(
        input_ids=input_ids,
        position_ids=np.broadcast_to(np.arange(width), input_ids.shape).copy(),
        segments=(),
        padding_mask=mask,
        sources=place[index - 1],
        targets=batch.token_ids[index],
        index=index,
    )


def _tokens(batch: Batch, sequence: int) -> Ints:
    begin = batch.starts[sequence]
    return batch.token_ids[begin : begin + batch.lengths[sequence]]


def _trained(batch: Batch, pack: list[int]) -> Ints:
    """Places in the batch of the pack's trained tokens; never a sequence's first token."""
    starts = batch.starts
    spans = [np.arange(starts[s], starts[s] + batch.lengths[s]) for s in pack]
    index = np.concatenate(spans)
    trained: Ints = index[batch.loss_mask[index]]
    return trained
