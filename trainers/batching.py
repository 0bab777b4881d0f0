"""From groups to one flat batch, normalised as a whole.

A `Batch` is numpy arrays over all tokens of all trained sequences laid end to end ([T]),
and knows nothing of torch. The loss over it is a pure sum of per-token terms, each with
its weight (`token_weights`) fixed for the whole optimiser update; so how the batch is cut
into micro-batches, packed, or shares prefixes can change speed and memory but not the
gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..envs.types import Group, Outcome, Trajectory
from .advantages import group_advantages, has_signal, shaped_rewards
from .algorithms import Algorithm

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Batch:
    """Every sequence with at least one trained token, end to end.

    Attributes:
        token_ids: [T] ids of sequence 0, then 1, ...
        loss_mask: [T] bool; true for the tokens that are trained (sampled by the model, in
            a valid episode, or a truncated one when the algorithm keeps those).
        advantages: [T] the sequence's advantage on trained tokens, 0 elsewhere.
        sampler_logprobs: [T] log-prob of the token when it was sampled, 0 elsewhere.
        lengths: [S] tokens of each sequence.
        groups: [S] index of the group it came from, ascending.
        stats: counts about what entered and what was left out (for metrics).
    """

    token_ids: Ints
    loss_mask: NDArray[np.bool_]
    advantages: Floats
    sampler_logprobs: Floats
    lengths: Ints
    groups: Ints
    stats: dict[str, float]

    @property
    def num_sequences(self) -> int:
        return len(self.lengths)

    @property
    def num_tokens(self) -> int:
        """Tokens forwarded when nothing is shared."""
        return len(self.token_ids)

    @property
    def num_trained(self) -> int:
        return int(self.loss_mask.sum())

    @property
    def starts(self) -> Ints:
        """[S] where each sequence begins in the [T] arrays."""
        starts: Ints = np.cumsum(self.lengths) - self.lengths
        return starts

    @property
    def sequence_ids(self) -> Ints:
        """[T] index of the sequence that each token belongs to."""
        return np.repeat(np.arange(self.num_sequences), self.lengths)

    def select(self, sequences: Ints) -> Batch:
        """The batch of these sequences only, in this order."""
        starts = self.starts
        spans = [np.arange(starts[s], starts[s] + self.lengths[s]) for s in sequences]
        index = np.concatenate(spans) if spans else np.zeros(0, dtype=np.int64)
        return replace(
            self,
            token_ids=self.token_ids[index],
            loss_mask=self.loss_mask[index],
            advantages=self.advantages[index],
            sampler_logprobs=self.sampler_logprobs[index],
            lengths=self.lengths[sequences],
            groups=self.groups[sequences],
        )

    def split(self, parts: int) -> list[Batch]:
        """Cut into at most `parts` minibatches of whole groups, as even as whole groups allow."""
        if parts == 1 or self.num_sequences == 0:
            return [self]
        present = np.unique(self.groups)
        chunks = np.array_split(present, min(parts, len(present)))
        return [self.select(np.flatnonzero(np.isin(self.groups, chunk))) for chunk in chunks]


def build_batch(groups: Sequence[Group], algorithm: Algorithm) -> Batch:
    """Lay the trainable sequences of `groups` end to end, with their advantages.

    Invalid members never enter. A truncated member enters its group's statistics, and the
    loss unless `algorithm.truncated` is `mask`. A sequence without a single trained token
    is left out.

    Raises:
        ValueError: the first token of a trajectory is marked as sampled (nothing predicts
            it), or a sampled token's log-prob is not finite.
    """
    rows: list[tuple[int, Trajectory, float]] = []
    for index, group in enumerate(groups):
        advantages = group_advantages(shaped_rewards(group, algorithm), algorithm)
        for trajectory, advantage in zip(group.trajectories, advantages, strict=True):
            if _is_trained(trajectory, algorithm):
                _check(trajectory)
                rows.append((index, trajectory, advantage))
    trajectories = [trajectory for _, trajectory, _ in rows]
    mask = _flat([t.mask for t in trajectories], np.bool_)
    lengths = np.array([len(t.token_ids) for t in trajectories], dtype=np.int64)
    spread = np.repeat(np.array([a for _, _, a in rows], dtype=np.float64), lengths)
    logprobs = _flat([t.logprobs for t in trajectories], np.float64)
    return Batch(
        token_ids=_flat([t.token_ids for t in trajectories], np.int64),
        loss_mask=mask,
        advantages=np.where(mask, spread, 0.0),
        sampler_logprobs=np.where(mask, logprobs, 0.0),
        lengths=lengths,
        groups=np.array([index for index, _, _ in rows], dtype=np.int64),
        stats=_stats(groups, len(rows)),
    )


def token_weights(batch: Batch, algorithm: Algorithm) -> Floats:
    """[T] what each token's loss is multiplied by before the plain sum; 0 off the mask.

    `token_mean`: 1 / N_tokens. `sequence_mean`: 1 / (N_sequences * tokens of the sequence).
    `constant`: 1 / (N_sequences * constant_length). All counts are of trained tokens, and of
    sequences with at least one, over the whole `batch` (one optimiser update).
    """
    mask = batch.loss_mask
    weight: Floats
    if algorithm.aggregation == "token_mean":
        weight = np.full(batch.num_tokens, 1.0 / max(batch.num_trained, 1))
    elif algorithm.aggregation == "sequence_mean":
        ids = batch.sequence_ids
        trained = np.bincount(ids, weights=mask, minlength=batch.num_sequences)
        weight = 1.0 / (batch.num_sequences * trained[ids])
    else:
        count = max(batch.num_sequences, 1) * algorithm.constant_length
        weight = np.full(batch.num_tokens, 1.0 / count)
    return np.where(mask, weight, 0.0)


def _is_trained(trajectory: Trajectory, algorithm: Algorithm) -> bool:
    if trajectory.outcome is Outcome.INVALID or not any(trajectory.mask):
        return False
    return algorithm.truncated == "keep" or trajectory.outcome is not Outcome.TRUNCATED


def _check(trajectory: Trajectory) -> None:
    if trajectory.mask[0]:
        raise ValueError(
            f"the first token of a trajectory of task {trajectory.task_id!r} is marked as "
            f"sampled: nothing comes before it, so it has no probability to train"
        )
    sampled = np.asarray(trajectory.logprobs)[np.asarray(trajectory.mask)]
    if not np.isfinite(sampled).all():
        raise ValueError(
            f"a sampled token of task {trajectory.task_id!r} has log-prob "
            f"{sampled[~np.isfinite(sampled)][0]}: the engine must return a finite one per token"
        )


def _flat(parts: Sequence[Sequence[float]], dtype: type[Any]) -> NDArray[Any]:
    if not parts:
        return np.zeros(0, dtype=dtype)
    return np.concatenate([np.asarray(part, dtype=dtype) for part in parts])


def _stats(groups: Sequence[Group], trained: int) -> dict[str, float]:
    members = [t for g in groups for t in g.trajectories]
    return {
        "groups": len(groups),
        "groups_without_signal": sum(
            not has_signal([t.reward for t in g.trajectories]) for g in groups
        ),
        "sequences": len(members),
        "sequences_invalid": sum(t.outcome is Outcome.INVALID for t in members),
        "sequences_truncated": sum(t.outcome is Outcome.TRUNCATED for t in members),
        "sequences_trained": trained,
    }
