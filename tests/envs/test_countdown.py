"""Countdown: the exact checker, the generator, and both together in MathCode."""

import ast
import operator
import pickle
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

import palestra
from palestra.envs.checker import Status, Subject, audit
from palestra.envs.rewards.countdown import ExpressionError, countdown_fault, parse_expression
from palestra.envs.tasks import check_disjoint, load_tasks
from palestra.envs.types import Message, Task

# --- the checker ----------------------------------------------------------------------------

RIGHT = [
    ("(50 + 3) * 7 - 8", [3, 7, 8, 50], 363),
    ("8/(3-8/3)", [3, 3, 8, 8], 24),  # fractions on the way
    ("1 / 3 + 2 / 3 + 5 * 1", [1, 1, 2, 3, 3, 5], 6),
    (r"\left(50 + 3\right) \times 7 - 8", [3, 7, 8, 50], 363),
    (r"(50 + 3) \cdot 7 − 8", [3, 7, 8, 50], 363),
    ("(50+3)×7–8", [3, 7, 8, 50], 363),
    ("100 ÷ 4", [4, 100], 25),
    (r"100 \div 4", [4, 100], 25),
    (r"\frac{100}{4} + 1", [1, 4, 100], 26),
    (r"\dfrac{100 - 4}{3 \cdot 8}", [3, 4, 8, 100], 4),
    ("[(50 + 3) * 7] - 8", [3, 7, 8, 50], 363),
    ("(50 + 3) * 7 - 8 = 363", [3, 7, 8, 50], 363),
    ("$(50 + 3) * 7 - 8$.", [3, 7, 8, 50], 363),
    ("-3 + 10", [3, 10], 7),
    ("10 - -3", [3, 10], 13),
    ("4 + 4", [4, 4], 8),
    ("007 + 1", [1, 7], 8),
]

WRONG = [
    ("(50 + 3) * 7", [3, 7, 8, 50], 371, "exactly once"),  # a number is left out
    ("4 + 4 + 4", [4, 4], 12, "exactly once"),
    ("4 + 4", [4], 8, "exactly once"),
    ("4 * 4", [4, 4], 8, "makes 16, not 8"),
    ("34 + 1", [1, 3, 4], 35, "exactly once"),  # digits are not joined
    ("363", [3, 7, 8, 50], 363, "exactly once"),
    ("1 / 3", [1, 3], 0, "makes 1/3, not 0"),
    ("7 / 2 * 2", [2, 2, 7], 6, "makes 7, not 6"),  # not floor division
    ("1 / (3 - 3)", [1, 3, 3], 1, "divides by zero"),
    ("3 + 7 = 11", [3, 7], 10, "after|follows"),
    ("3 + 7 = 10 = 10", [3, 7], 10, "no part"),
    ("10 = 3 + 7", [3, 7], 10, "follows"),
    ("3 + 7 = 3 + 7", [3, 7], 10, "follows"),
    ("2 ** 3", [2, 3], 8, "not expected"),
    ("7 // 2", [2, 7], 3, "not expected"),
    ("2(3)", [2, 3], 6, "not expected"),
    ("2 3", [2, 3], 23, "not expected"),
    ("2 + (3", [2, 3], 5, "missing"),
    ("2 + 3)", [2, 3], 5, "not expected"),
    ("(2 + 3]", [2, 3], 5, "missing"),
    ("2 +", [2, 3], 5, "incomplete"),
    ("", [2, 3], 5, "incomplete"),
    ("2.0 + 3", [2, 3], 5, "no part"),
    ("2e0 + 3", [2, 3], 5, "no part"),
    ("abs(2) + 3", [2, 3], 5, "no part"),
    ("__import__('os')", [2, 3], 5, "no part"),
    ("٢ + ٣", [2, 3], 5, "no part"),  # digits, but not these
    (r"\frac23", [2, 3], 1, "missing"),
    (r"\frac{6}{2", [2, 6], 3, "missing"),
    (r"2 \timesx 3", [2, 3], 6, "no part"),
    ("3! + 0", [0, 3], 6, "no part"),
    ("(" * 100 + "2 + 3" + ")" * 100, [2, 3], 5, "too deep"),
    ("-" * 100 + "2 + 3", [2, 3], 5, "too deep"),
    ("2 + 3" + " " * 2000, [2, 3], 5, "longer than"),
    ("9" * 999, [2, 3], 5, "exactly once"),
]


@pytest.mark.parametrize(("answer", "numbers", "target"), RIGHT)
def test_right_answers(answer, numbers, target):
    assert countdown_fault(answer, numbers, target) is None


@pytest.mark.parametrize(("answer", "numbers", "target", "why"), WRONG)
def test_wrong_answers_say_why(answer, numbers, target, why):
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(countdown_fault(answer, numbers, target))


def test_only_the_operations_allowed():
    assert countdown_fault("3 * 4", [3, 4], 12, "+*") is None
    assert "only +- are allowed" in countdown_fault("3 * 4", [3, 4], 12, "+-")
    assert "only +-* are allowed" in countdown_fault(r"\frac{12}{4}", [4, 12], 3, "+-*")
    assert "only + are allowed" in countdown_fault("-3 + 7", [3, 7], 4, "+")  # nor by a sign


def exact(node):
    """The value of a Python expression over whole numbers, with rationals."""
    signs = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
    match node:
        case ast.Constant(value):
            return Fraction(value)
        case ast.UnaryOp(ast.USub(), inner):
            return -exact(inner)
        case ast.BinOp(left, ast.Div(), right):
            return exact(left) / exact(right)
        case ast.BinOp(left, sign, right):
            return signs[type(sign)](exact(left), exact(right))


EXPRESSIONS = st.recursive(
    st.integers(0, 99).map(str),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from("+-*/"), inner).map(" ".join),
        inner.map("({})".format),
        inner.map("-{}".format),
    ),
    max_leaves=12,
)


@given(EXPRESSIONS)
def test_it_computes_what_python_would_with_rationals(text):
    try:
        value = exact(ast.parse(text, mode="eval").body)
    except ZeroDivisionError:
        with pytest.raises(ExpressionError, match="zero"):
            parse_expression(text)
        return
    found = parse_expression(text)
    assert found.value == value
    numbers = [int(n.value) for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Constant)]
    assert sorted(found.numbers) == sorted(numbers)


@given(st.text(alphabet="0123456789+-*/()[]{}=\\frac ×.,eE_", max_size=60))
def test_any_text_gets_a_verdict(text):
    fault = countdown_fault(text, [1, 2], 3)
    assert fault is None or isinstance(fault, str)


# --- the tasks ------------------------------------------------------------------------------

OPTIONS = [
    {},
    {"numbers": 2, "largest": 9, "target": (5, 30)},
    {"numbers": 6, "largest": 50},
    {"numbers": 10, "largest": 100, "target": (100, 999)},
    {"numbers": (2, 4), "operations": "+-"},
    {"numbers": 4, "operations": "*/", "largest": 20, "target": (2, 99)},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_every_task_has_the_solution_it_was_made_from(options):
    tasks = load_tasks("countdown", size=200, seed=5, **options)
    few, many = tasks.numbers
    for task in tasks:
        numbers, target = task.metadata["numbers"], task.metadata["target"]
        assert countdown_fault(task.reference, numbers, target, tasks.operations) is None
        assert few <= len(numbers) <= many and task.difficulty == len(numbers)
        assert max(numbers) <= tasks.largest and tasks.target[0] <= target <= tasks.target[1]
        assert all(f" {n}" in task.question for n in (*numbers, target))
        assert task.reference not in task.question
        assert Task.from_dict(task.to_dict()) == task


def problems(tasks):
    return {(*sorted(t.metadata["numbers"]), t.metadata["target"]) for t in tasks}


def test_no_problem_is_in_both_splits_in_whatever_order_it_is_told():
    options = {"numbers": 2, "largest": 20, "target": (1, 60)}
    train = load_tasks("countdown", size=3000, seed=1, **options)
    heldout = load_tasks("countdown", size=300, seed=2, split="heldout", **options)
    check_disjoint(train, heldout, None)
    assert not problems(train) & problems(heldout)
    told = {t.question for t in train}
    assert len(told) > len(problems(train))  # some are told in two orders
    assert 0.05 < len(problems(heldout)) / len(problems(train)) < 0.2


def test_tasks_are_a_function_of_their_index():
    tasks = load_tasks("countdown", seed=3)
    assert len(tasks) == 1_000_000 and len(load_tasks("countdown", split="test")) == 1000
    assert tasks[777_777] == pickle.loads(pickle.dumps(tasks))[777_777]
    assert tasks[0] != load_tasks("countdown", seed=4)[0]
    assert tasks[0].id == "countdown/train/3/0"
    named = load_tasks("countdown", numbers=5, largest=9, target=(1, 9), operations="+*-")
    assert named.name == "countdown(numbers=5,largest=9,target=1-9,operations=+-*)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"numbers": 1}, "numbers must be"),
        ({"numbers": (4, 3)}, "numbers must be"),
        ({"largest": 0}, "must be positive"),
        ({"target": (9, 3)}, "must be positive"),
        ({"operations": "%"}, "operations must be"),
        ({"size": -1}, "size must not"),
    ],
)
def test_bad_options_say_what_is_expected(options, message):
    with pytest.raises(ValueError, match=message):
        load_tasks("countdown", **options)


def test_what_cannot_be_made_says_so():
    tasks = load_tasks("countdown", numbers=2, largest=3, target=(900, 999))
    with pytest.raises(ValueError, match="too few different problems"):
        tasks[0]


# --- in MathCode ----------------------------------------------------------------------------


def made(**options):
    return palestra.make("palestra/MathCode-v0", tasks="countdown", **options).unwrapped


@pytest.mark.parametrize(
    ("answer", "reward"),
    [
        (r"\boxed{8/(3-8/3)}", 1),
        (r"\boxed{\frac{8}{3 - \frac{8}{3}}}", 1),
        (r"\boxed{24}", 0),
        (r"\boxed{3 * 8}", 0),
        ("8/(3-8/3)", 0),  # not in a box
    ],
)
def test_an_answer_is_graded_by_its_rules_and_not_by_the_reference(answer, reward):
    rules = {"grader": "countdown", "numbers": [3, 3, 8, 8], "target": 24, "operations": "+-*/"}
    task = Task("t", (Message("user", "Make 24."),), "another way", metadata=rules)
    env = made()
    env.reset(options={"task": task})
    _, paid, ended, _, info = env.step(answer)
    assert (paid, ended, info["correct"]) == (reward, True, bool(reward))


def test_mathcode_passes_its_audit_with_countdown():
    checks = ["oracle", "floor", "range", "verdict", "leak", "splits", "storage", "ids", "seed"]
    found = list(audit(Subject(lambda **changes: made(**changes), tasks=4), only=checks))
    assert {f.check: f.detail for f in found if f.status is not Status.PASS} == {}


def test_countdown_has_levels_and_mixes_with_other_sources():
    levels = load_tasks("levels", source="countdown", steps=[{"numbers": n} for n in (2, 3, 4)])
    assert [len(levels[i].metadata["numbers"]) for i in range(3)] == [2, 3, 4]
    mixed = load_tasks("mixture", sources={"arithmetic": 2, "countdown": 1}, size=30)
    assert ["grader" in task.metadata for task in list(mixed)[:3]].count(True) == 1
