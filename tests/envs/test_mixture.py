"""Mixtures of task sets keep their proportions, whatever stretch is looked at."""

import pickle
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palestra.envs.tasks import MixtureTasks, TaskList, check_disjoint, load_tasks
from palestra.envs.types import Message, Task


def numbered(name, size, split="train"):
    tasks = [Task(f"{name}{i}", (Message("user", f"{name} {i}"),), "") for i in range(size)]
    return TaskList(name, split, tasks)


def kinds(mixture, indices):
    return Counter(mixture[i].id[0] for i in indices)


@given(weights=st.lists(st.integers(1, 9), min_size=1, max_size=5), start=st.integers(0, 50))
def test_one_period_anywhere_has_each_set_in_proportion(weights, start):
    names = "abcde"[: len(weights)]
    sets = {name: numbered(name, 40) for name in names}
    mixture = MixtureTasks(sets, dict(zip(names, weights, strict=True)))
    period = len(mixture._order)
    counts = kinds(mixture, (i % len(mixture) for i in range(start, start + period)))
    scale = period / sum(weights)
    assert counts == {n: w * scale for n, w in zip(names, weights, strict=True)}


def test_tasks_of_a_set_come_in_order_and_none_is_left_out():
    mixture = MixtureTasks({"a": numbered("a", 6), "b": numbered("b", 1)}, {"a": 2, "b": 1})
    ids = [task.id for task in mixture]
    assert [i for i in ids if i[0] == "a"] == ["a0", "a1", "a2", "a3", "a4", "a5"]
    assert [i for i in ids if i[0] == "b"] == ["b0", "b0#2", "b0#3"] and len(mixture) == 9
    assert len({task.prompt for task in mixture if task.id[0] == "b"}) == 1
    assert pickle.loads(pickle.dumps(mixture))[4] == mixture[4]


@given(
    sets=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 12)), min_size=1, max_size=4),
)
def test_held_out_tasks_come_once_until_a_set_is_used_up(sets):
    weights = {"abcd"[i]: weight for i, (weight, _) in enumerate(sets)}
    parts = {"abcd"[i]: numbered("abcd"[i], size, "heldout") for i, (_, size) in enumerate(sets)}
    mixture = MixtureTasks(parts, weights)
    ids = [task.id for task in mixture]
    assert len(set(ids)) == len(ids) and not any("#" in i for i in ids)
    one_more = mixture.task(len(mixture)).id  # is the first that comes again
    assert one_more.removesuffix("#2") in ids
    longer = MixtureTasks({n: numbered(n, 99, "heldout") for n in parts}, weights)
    assert ids == [longer[i].id for i in range(len(mixture))]


def test_fractions_are_weights_too():
    mixture = MixtureTasks({"a": numbered("a", 9), "b": numbered("b", 9)}, {"a": 0.5, "b": 1.5})
    assert kinds(mixture, range(8)) == {"a": 2, "b": 6}


@pytest.mark.parametrize(
    ("sets", "weights", "message"),
    [
        ({}, None, "at least one"),
        ({"a": numbered("a", 2)}, {"a": 0}, "positive weight"),
        ({"a": numbered("a", 2)}, {"b": 1}, "positive weight"),
        ({"a": numbered("a", 0)}, None, "have no tasks"),
        ({"a": numbered("a", 2), "b": numbered("b", 2, "heldout")}, None, "one split"),
    ],
)
def test_what_cannot_be_mixed_is_refused(sets, weights, message):
    with pytest.raises(ValueError, match=message):
        MixtureTasks(sets, weights)


def test_load_tasks_makes_mixtures_with_disjoint_splits():
    options = {
        "sources": {"arithmetic": 3, "rg:chain_sum": 1},
        "source_options": {"arithmetic": {"digits": 2}, "rg:chain_sum": {"level": 1}},
    }
    pytest.importorskip("reasoning_gym")
    train = load_tasks("mixture", size=200, **options)
    heldout = load_tasks("mixture", split="heldout", size=50, **options)
    check_disjoint(train, heldout, None)
    families = [task.metadata.get("family") for task in list(train)[:40]]
    assert families.count("chain_sum") == 10
    with pytest.raises(ValueError, match="not among"):
        load_tasks("mixture", sources={"arithmetic": 1}, source_options={"rg:gcd": {}})
