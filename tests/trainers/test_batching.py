"""What enters a batch, how it is weighed, and how it is packed."""

import math

import numpy as np
import pytest
from episodes import TASK, random_groups, trajectory
from hypothesis import given, settings
from hypothesis import strategies as st

from palestra.envs.types import Group, StopReason
from palestra.trainers.algorithms import get_algorithm
from palestra.trainers.batching import build_batch, token_weights
from palestra.trainers.packing import micro_batches

GRPO = get_algorithm("grpo", std_eps=0.0)


def small():
    """Two groups: (5 sampled tokens right, 2 wrong, invalid), (1 right, 3 truncated)."""
    first = (
        trajectory([1, 2, 3, 4, 9, 9, 5, 6, 7], [0, 0, 1, 1, 0, 0, 1, 1, 1], 1.0),
        trajectory([1, 2, 8, 8], [0, 0, 1, 1], 0.0),
        trajectory([1, 2, 7, 7, 7], [0, 0, 1, 1, 1], None),
    )
    second = (
        trajectory([4, 4, 5], [0, 0, 1], 1.0),
        trajectory([4, 4, 6, 6, 6], [0, 0, 1, 1, 1], 0.0, stop=StopReason.MAX_TOKENS),
    )
    return [Group(TASK, first), Group(TASK, second)]


def test_tool_tokens_prompts_and_invalid_members_are_not_trained():
    batch = build_batch(small(), GRPO)
    assert batch.lengths.tolist() == [9, 4, 3, 5]
    assert batch.groups.tolist() == [0, 0, 1, 1]
    assert batch.token_ids[batch.loss_mask].tolist() == [3, 4, 5, 6, 7, 8, 8, 5, 6, 6, 6]
    a = 1 / math.sqrt(2)
    expected = [a] * 5 + [-a] * 2 + [a] + [-a] * 3
    assert batch.advantages[batch.loss_mask] == pytest.approx(expected)
    assert not batch.advantages[~batch.loss_mask].any()
    assert batch.stats["sequences_invalid"] == 1 and batch.stats["sequences"] == 5


def test_truncated_episodes_kept_or_masked():
    masked = build_batch(small(), get_algorithm("grpo", std_eps=0.0, truncated="mask"))
    assert masked.lengths.tolist() == [9, 4, 3]
    # Its zero reward still makes its sibling's advantage.
    assert masked.advantages[-1] == pytest.approx(1 / math.sqrt(2))


def test_an_episode_without_a_sampled_token_still_counts_in_its_group():
    overflow = trajectory([1, 2], [0, 0], 0.0, stop=StopReason.CONTEXT_OVERFLOW)
    batch = build_batch([Group(TASK, (trajectory([1, 2, 3], [0, 0, 1], 1.0), overflow))], GRPO)
    assert batch.num_sequences == 1
    assert batch.advantages[-1] == pytest.approx(1 / math.sqrt(2))


def test_weights_by_hand():
    batch = build_batch(small(), GRPO)
    trained = batch.loss_mask
    assert token_weights(batch, get_algorithm("dapo"))[trained] == pytest.approx([1 / 11] * 11)
    sequence = [1 / 20] * 5 + [1 / 8] * 2 + [1 / 4] + [1 / 12] * 3
    assert token_weights(batch, GRPO)[trained] == pytest.approx(sequence)
    constant = get_algorithm("dr_grpo", constant_length=100)
    assert token_weights(batch, constant)[trained] == pytest.approx([1 / 400] * 11)
    for algorithm in (GRPO, constant, get_algorithm("dapo")):
        assert not token_weights(batch, algorithm)[~trained].any()


def test_sequence_weights_sum_to_one():
    batch = build_batch(random_groups(np.random.default_rng(0)), GRPO)
    assert token_weights(batch, GRPO).sum() == pytest.approx(1.0)
    assert token_weights(batch, get_algorithm("dapo")).sum() == pytest.approx(1.0)


def test_an_empty_batch_is_possible():
    batch = build_batch([Group(TASK, (trajectory([1, 2], [0, 1], None),))], GRPO)
    assert (batch.num_sequences, batch.num_tokens, batch.num_trained) == (0, 0, 0)
    assert list(micro_batches(batch, 100)) == []
    assert len(token_weights(batch, GRPO)) == 0


def test_bad_trajectories_are_refused():
    with pytest.raises(ValueError, match="first token"):
        build_batch([Group(TASK, (trajectory([1, 2], [1, 1], 1.0),))], GRPO)
    nan = trajectory([1, 2], [0, 1], 1.0, logprobs=[0.0, math.nan])
    with pytest.raises(ValueError, match="log-prob nan"):
        build_batch([Group(TASK, (nan,))], GRPO)


def test_split_keeps_groups_whole_and_loses_nothing():
    batch = build_batch(random_groups(np.random.default_rng(1), groups=5), GRPO)
    parts = batch.split(2)
    assert [sorted(set(p.groups.tolist())) for p in parts] == [[0, 1, 2], [3, 4]]
    assert np.concatenate([p.token_ids for p in parts]).tolist() == batch.token_ids.tolist()
    assert len(batch.split(50)) == 5


def rebuild(micro):
    """(source's whole left context, target) of every trained token, read off the plan."""
    segments, starts, offset = micro.segments, [], 0
    for segment in segments:
        starts.append(offset)
        offset += segment.length
    flat = micro.input_ids[0]
    found = {}
    for source, target, index in zip(micro.sources, micro.targets, micro.index, strict=True):
        run = max(i for i, s in enumerate(starts) if s <= source)
        context = flat[starts[run] : source + 1].tolist()
        parent = segments[run].parent
        while parent >= 0:
            context = flat[starts[parent] : starts[parent] + segments[parent].length].tolist() + (
                context
            )
            parent = segments[parent].parent
        assert micro.position_ids[0, source] == len(context) - 1
        found[int(index)] = (context, int(target))
    return found


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.booleans(), st.sampled_from([1, 60, 200, 10_000]))
def test_every_trained_token_sees_exactly_its_own_past(seed, share, max_tokens):
    batch = build_batch(random_groups(np.random.default_rng(seed), prompt=8, scale=12), GRPO)
    found = {}
    for micro in micro_batches(batch, max_tokens, share_prefix=share, min_shared=4):
        assert micro.num_tokens == sum(s.length for s in micro.segments)
        longest = int(batch.lengths.max())
        assert micro.num_tokens <= max(max_tokens, longest)
        found |= rebuild(micro)
    expected = {}
    for start, length in zip(batch.starts, batch.lengths, strict=True):
        for t in range(start, start + length):
            if batch.loss_mask[t]:
                expected[t] = (batch.token_ids[start:t].tolist(), int(batch.token_ids[t]))
    assert found == expected


def test_shared_prefixes_appear_once():
    # Four members: prompt of 20, two of them with 10 more in common.
    prompt, turn = list(range(1, 21)), list(range(30, 40))
    rows = [prompt + turn + [50], prompt + turn + [51], [*prompt, 52], [*prompt, 53]]
    members = [trajectory(r, [0] * 20 + [1] * (len(r) - 20), float(i)) for i, r in enumerate(rows)]
    batch = build_batch([Group(TASK, tuple(members))], GRPO)
    (micro,) = micro_batches(batch, 1000, min_shared=5)
    assert micro.num_tokens == 20 + 10 + 4
    (coarse,) = micro_batches(batch, 1000, min_shared=15)
    assert coarse.num_tokens == 20 + 11 + 11 + 2
    (apart,) = micro_batches(batch, 1000, share_prefix=False)
    assert apart.num_tokens == batch.num_tokens == 104


def test_identical_members_cost_one():
    members = [trajectory(range(30), [0] * 10 + [1] * 20, float(i)) for i in range(4)]
    batch = build_batch([Group(TASK, tuple(members))], GRPO)
    (micro,) = micro_batches(batch, 1000)
    assert micro.num_tokens == 30
    assert len(micro.targets) == 80


def test_padded_micro_batches_hold_the_same_tokens():
    batch = build_batch(random_groups(np.random.default_rng(3)), GRPO)
    seen = []
    for micro in micro_batches(batch, 300, padded=True):
        rows, columns = np.divmod(micro.sources, micro.input_ids.shape[1])
        assert micro.num_tokens <= 300 and micro.padding_mask[rows, columns].all()
        assert (micro.input_ids[rows, columns] == batch.token_ids[micro.index - 1]).all()
        seen += micro.index.tolist()
    assert sorted(seen) == np.flatnonzero(batch.loss_mask).tolist()
