"""reasoning-gym families as task sets, and their scorers."""

import json
import pickle
import random
from fractions import Fraction

import numpy as np
import pytest

from palestra.envs.rewards import ascore_reasoning, score_reasoning
from palestra.envs.rewards.reasoning import decode, encode
from palestra.envs.tasks import check_disjoint, is_heldout, load_tasks
from palestra.envs.types import Message, Task

reasoning_gym = pytest.importorskip("reasoning_gym")
FAMILIES = sorted(set(reasoning_gym.factory.DATASETS) - {"composite"})
SLOW = {"futoshiki", "intermediate_integration", "knight_swap", "puzzle24", "quantum_lock",
        "rubiks_cube", "simple_integration", "sokoban", "zebra_puzzles"}  # fmt: skip


def stored(task):
    """`task` as it comes back from disk."""
    return Task.from_dict(json.loads(json.dumps(task.to_dict())))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize(
    "family",
    [pytest.param(f, marks=[pytest.mark.slow] if f in SLOW else []) for f in FAMILIES],
)
def test_every_family(family):
    before = random.getstate(), np.random.get_state()[1].tolist()
    tasks = load_tasks(f"rg:{family}", size=50)
    task = stored(tasks[7])
    assert task == tasks[7] == pickle.loads(pickle.dumps(tasks))[7]
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    assert task.question
    assert not is_heldout(task.question)
    if task.reference:
        assert score_reasoning(task.reference, task) == 1.0
    assert score_reasoning("certainly not this", task) < 0.5


def test_splits_are_disjoint():
    train = load_tasks("rg:chain_sum", size=300, max_terms=2, max_digits=1)
    heldout = load_tasks("rg:chain_sum", split="heldout", size=30, max_terms=2, max_digits=1)
    check_disjoint(train, heldout, None)
    assert all(is_heldout(task.question) for task in heldout)


def test_difficulty_options_reach_the_family():
    for task in load_tasks("rg:chain_sum", size=20, min_terms=5, max_terms=5):
        assert task.metadata["entry"]["metadata"]["num_terms"] == 5


def test_unknown_names_get_their_neighbours():
    with pytest.raises(ValueError, match=r"no family 'chainsum'.*nearest are chain_sum"):
        load_tasks("rg:chainsum")
    with pytest.raises(ValueError, match=r"no option 'min_term'.*did you mean 'min_terms'"):
        load_tasks("rg:chain_sum", min_term=2)
    with pytest.raises(ValueError, match=r"refuses .*max_terms must be"):
        load_tasks("rg:chain_sum", min_terms=5, max_terms=2)


def test_too_few_questions():
    with pytest.raises(ValueError, match="too few different questions"):
        for split in ("train", "heldout"):
            load_tasks("rg:count_primes", split=split, min_n=5, max_n=5)[0]


def test_encode_keeps_types():
    value = {"a": (1, [2.5, None]), "b": {3: {"x"}, (1, 2): "y"}, "c": {"!tuple": 1}}
    assert decode(json.loads(json.dumps(encode(value)))) == value
    with pytest.raises(TypeError, match="cannot keep a object"):
        encode(object())


def test_scores_in_a_sandbox():
    task = stored(load_tasks("rg:chain_sum")[0])
    assert score_reasoning(task.reference, task) == 1.0
    assert score_reasoning("-1234567", task) < 0.5


async def _asynchronously(task):
    return await ascore_reasoning(task.reference, task)


def test_scores_asynchronously():
    import asyncio

    task = load_tasks("rg:gcd")[0]
    assert asyncio.run(_asynchronously(task)) == 1.0


@pytest.mark.parametrize("family", ["countdown", "game_of_life_halting", "tower_of_hanoi"])
def test_empty_answers_score_nothing(family):
    task = load_tasks(f"rg:{family}")[0]
    assert [score_reasoning(a, task) for a in (None, "", " \n")] == [0.0] * 3


def test_other_tasks_are_refused():
    with pytest.raises(ValueError, match="no reasoning-gym entry"):
        score_reasoning("1", Task("x", (Message("user", "?"),)))


def test_many_items_of_gsm_symbolic_survive_json():
    """Some carry fractions in their metadata."""
    tasks = load_tasks("rg:gsm_symbolic", split="heldout", size=60)
    for task in tasks:
        json.dumps(task.to_dict())
    assert decode(json.loads(json.dumps(encode({"x": (Fraction(1, 4),)})))) == {
        "x": (Fraction(1, 4),)
    }
