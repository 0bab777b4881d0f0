"""Arithmetic tasks, the split rule, and what every task set promises."""

import math
import pickle
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palestra.envs.tasks import TaskList, check_disjoint, is_heldout, load_tasks
from palestra.envs.tasks.base import canonical_split, normalise_prompt
from palestra.envs.types import Message, Task


def test_question_and_reference():
    tasks = load_tasks("arithmetic", size=300, terms=3, digits=(1, 4))
    for task in tasks:
        expression = task.metadata["expression"]
        assert task.question == f"What is {expression}?"
        assert task.reference == str(eval(expression))
        assert task == Task.from_dict(task.to_dict())


def test_digits_and_operations_are_as_asked():
    seen = set()
    for task in load_tasks("arithmetic", size=400, digits=(2, 3), operations="-*"):
        left, sign, right = task.metadata["expression"].split(" ")
        assert {len(left), len(right)} <= {2, 3}
        seen |= {sign, len(left)}
    assert seen == {"-", "*", 2, 3}


def test_operands_cover_their_range_evenly():
    tasks = load_tasks("arithmetic", size=4000, digits=1, terms=10, operations="+")
    counts = dict.fromkeys("0123456789", 0)
    for task in tasks:
        for operand in task.metadata["expression"].split(" + "):
            counts[operand] += 1
    expected = sum(counts.values()) / 10
    chi_square = sum((n - expected) ** 2 / expected for n in counts.values())
    assert chi_square < 27.9  # 99.9% quantile with 9 degrees of freedom


def test_difficulty_counts_schoolbook_steps():
    for task in load_tasks("arithmetic", size=50, digits=(1, 5)):
        left, sign, right = task.metadata["expression"].split(" ")
        steps = (len(left) * len(right)) if sign == "*" else max(len(left), len(right))
        assert task.difficulty == steps


def test_random_access_is_deterministic_and_picklable():
    tasks = load_tasks("arithmetic", seed=3, digits=5, terms=4)
    ahead = tasks[777_777]
    assert [tasks[i] for i in range(5)] == [t for t, _ in zip(tasks, range(5), strict=False)]
    copy = pickle.loads(pickle.dumps(tasks))
    assert copy[777_777] == ahead == load_tasks("arithmetic", seed=3, digits=5, terms=4)[777_777]
    assert tasks[-1] == tasks[len(tasks) - 1]
    with pytest.raises(IndexError, match="has 1000000 tasks"):
        tasks[len(tasks)]


def test_tasks_do_not_depend_on_the_process():
    tasks = load_tasks("arithmetic", size=20)
    code = (
        "from palestra.envs.tasks import load_tasks\n"
        "print([t.question for t in load_tasks('arithmetic', size=20)])"
    )
    run = [sys.executable, "-c", code]
    out = subprocess.run(run, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == str([t.question for t in tasks])


def test_seeds_give_different_tasks():
    a, b = (load_tasks("arithmetic", seed=s, size=50, digits=6) for s in (0, 1))
    assert not {t.question for t in a} & {t.question for t in b}


@pytest.mark.parametrize("seeds", [(0, 0), (0, 7)])
def test_splits_never_share_a_prompt(seeds):
    # Few digits: without the rule these sets would share nearly everything.
    train = load_tasks("arithmetic", size=3000, seed=seeds[0], digits=(1, 2))
    heldout = load_tasks("arithmetic", split="test", size=400, seed=seeds[1], digits=(1, 2))
    assert heldout.split == heldout[0].split == "heldout"
    check_disjoint(train, heldout, None)
    assert all(is_heldout(t.question) for t in heldout)
    assert not any(is_heldout(t.question) for t in train)


def test_a_source_too_small_for_its_split_says_so():
    # digits=1, operations="+" has 100 questions: heldout has a few of them, and works.
    assert len({t.question for t in load_tasks("arithmetic", split="heldout", digits=1)}) > 3


def test_heldout_share_is_the_fraction():
    n = 20_000
    share = sum(is_heldout(f"prompt number {i}") for i in range(n)) / n
    assert abs(share - 0.1) < 4 * math.sqrt(0.09 / n)


def test_heldout_ignores_case_spacing_and_compatibility_forms():
    assert normalise_prompt(" What  is\n1 + 1? ") == normalise_prompt("what is 1 + 1?")
    assert is_heldout("ﬁne  Print") == is_heldout("fine print")


def test_heldout_is_frozen():
    """The rule must never change: a change would move held-out prompts into training."""
    chosen = [i for i in range(100) if is_heldout(f"What is {i} + 1?")]
    assert chosen == [18, 19, 23, 35, 47, 50, 51, 52, 61, 79, 80, 89]


def test_check_disjoint_names_the_shared_prompt():
    def listed(name, split, *questions):
        tasks = [Task(f"{name}{i}", (Message("user", q),)) for i, q in enumerate(questions)]
        return TaskList(name, split, tasks)

    a, b = listed("a", "train", "One?", "Two?"), listed("b", "heldout", "three?", "TWO?")
    with pytest.raises(ValueError, match=r"1 prompts of 'b'.*first at 1 and 1: 'TWO\?'"):
        check_disjoint(a, b)
    check_disjoint(a, b, limit=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"digits": 0}, "digits must be"),
        ({"digits": (3, 2)}, "digits must be"),
        ({"operations": "/"}, "operations must be"),
        ({"terms": 1}, "terms must be"),
        ({"size": -1}, "size must not"),
        ({"split": "validation"}, "unknown split 'validation'"),
    ],
)
def test_bad_options_say_what_is_expected(options, message):
    with pytest.raises(ValueError, match=message):
        load_tasks("arithmetic", **options)


def test_unknown_source():
    with pytest.raises(ValueError, match="unknown task source 'arithmetics'"):
        load_tasks("arithmetics")


@pytest.mark.parametrize(
    ("source", "options", "says"),
    [
        ("arithmetic", {"digit": 3}, "'arithmetic' have no option 'digit'; did you mean 'digits'"),
        ("countdown", {"zzz": 3}, "it takes numbers, largest, target, operations"),
        ("x.jsonl", {"promptkey": "q"}, "did you mean 'prompt_key'"),
        ("hub:a/b", {"trainsplit": "q"}, "did you mean 'train_split'"),
        ("mixture", {"source_options": {}}, "need the option 'sources'"),
        ("levels", {"source": "arithmetic"}, "need the option 'steps'"),
    ],
)
def test_a_wrong_option_names_the_nearest_and_a_lacking_one_itself(source, options, says):
    with pytest.raises(ValueError, match=says):
        load_tasks(source, **options)


def test_split_names():
    assert [canonical_split(s) for s in ("train", "test", "heldout")] == [
        "train",
        "heldout",
        "heldout",
    ]


@settings(max_examples=30, deadline=None)
@given(
    digits=st.tuples(st.integers(1, 40), st.integers(0, 20)).map(lambda p: (p[0], sum(p))),
    terms=st.integers(2, 12),
    operations=st.sets(st.sampled_from("+-*"), min_size=1).map("".join),
    index=st.integers(0, 999),
    seed=st.integers(-(2**70), 2**70),
)
def test_any_options_give_a_right_answer(digits, terms, operations, index, seed):
    task = load_tasks(
        "arithmetic", digits=digits, terms=terms, operations=operations, seed=seed, size=1000
    )[index]
    assert task.reference == str(eval(task.metadata["expression"]))
    assert len(task.metadata["expression"].split(" ")) == 2 * terms - 1


def test_heavy_packages_stay_out():
    code = (
        "import sys, palestra.envs.tasks, palestra.envs.rewards as r\n"
        "r.grade_math('#### 18', '18')\n"
        "heavy = 'sympy math_verify reasoning_gym datasets pyarrow torch transformers'.split()\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
