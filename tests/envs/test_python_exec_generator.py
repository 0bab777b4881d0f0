"""The generator of programming tasks: reproducible, levelled, with tests that bite."""

import pickle
import random

import pytest

from palestra.envs.python_exec.formats import example_tests, hidden_tests, solution
from palestra.envs.python_exec.generator import HIDDEN, ProgramTasks
from palestra.envs.python_exec.loading import load_programs
from palestra.envs.python_exec.steps import CONDITIONS, INPUTS, STEPS, VARIABLES
from palestra.envs.rewards.unit_tests import StdioTests, decode, encode, run_tests
from palestra.envs.tasks import check_disjoint
from palestra.sandbox import LocalSandbox


@pytest.fixture(scope="module")
def sandbox():
    with LocalSandbox(preload=()) as box:
        yield box


def first(count, **options):
    tasks = ProgramTasks(**options)
    return [tasks[i] for i in range(count)]


@pytest.mark.parametrize("kind", ["function", "stdin"])
@pytest.mark.parametrize("level", [1, 2, 3, 4, 5])
def test_solutions_pass_at_every_level(sandbox, level, kind):
    for task in first(2, level=level, kind=kind):
        tests, examples = hidden_tests(task), example_tests(task)
        assert task.difficulty == level and len(tests) >= HIDDEN and len(examples) == 3
        assert isinstance(tests, StdioTests) == (kind == "stdin")
        assert run_tests(solution(task), tests, sandbox).all_passed
        assert run_tests(solution(task), examples, sandbox).all_passed


def test_tasks_depend_on_options_seed_and_index_only():
    tasks, state = ProgramTasks(level=(1, 5)), random.getstate()
    late, early = tasks[7], tasks[0]
    again = pickle.loads(pickle.dumps(tasks))
    assert (again[0], again[7]) == (early, late) and random.getstate() == state
    assert ProgramTasks(level=(1, 5), seed=1)[7] != late
    assert len({task.id for task in first(50, level=(1, 5))}) == 50


def test_a_task_is_what_it_was():
    """A change here changes what past results were about: it needs a new version."""
    assert first(1, level=1)[0].question.splitlines()[0] == (
        "Write a Python function f(n) of an integer n: add 24. Return the result."
    )


@pytest.mark.parametrize(
    ("source", "result"),
    [(step.source, step) for step in STEPS],
    ids=[f"{s.source}: {s.phrase[:30]}" for s in STEPS],
)
def test_every_step_does_what_its_types_say(source, result):
    kinds = {"int": int, "ints": list, "text": str, "words": list, "counts": dict}
    rng = random.Random(1)
    for k in result.choices[:2] or (None,):
        code = result.template.format(v=VARIABLES[source], k=k)
        for _ in range(20):
            value = eval(code, {VARIABLES[source]: INPUTS[source](rng)})
            assert type(value) is kinds[result.result]
            assert decode(encode(value)) == value


def test_levels_use_their_own_steps():
    phrases = {tier: {s.phrase.split("{k")[0] for s in STEPS if s.tier == tier} for tier in (1, 5)}
    for task in first(20, level=1):
        assert any(start in task.question for start in phrases[1])
        assert "; then" not in task.question and solution(task).count("\n") == 1
    for task in first(6, level=5):
        assert any(start in task.question for start in phrases[5])
        assert task.question.count("; then") >= 3
    assert any(c.phrase.split("{k")[0] in t.question for t in first(8, level=4) for c in CONDITIONS)


def behaviours(tasks):
    """What the solutions do on a hundred inputs of their type, so that equal functions meet."""
    found = set()
    for task in tasks:
        names = {}
        exec(solution(task), names)
        kind = next(k for k, v in VARIABLES.items() if f"def f({v})" in solution(task))
        rng = random.Random(99)
        found.add((kind, *(encode(names["f"](INPUTS[kind](rng))) for _ in range(100))))
    return found


@pytest.mark.parametrize(("level", "size"), [(1, 120), (2, 80), (4, 15)])
def test_train_and_heldout_share_no_prompt_and_no_function(level, size):
    train, heldout = (ProgramTasks(level=level, split=s, size=size) for s in ("train", "heldout"))
    check_disjoint(train, heldout)
    mine, theirs = behaviours(train), behaviours(heldout)
    assert not mine & theirs and len(mine) > 5 and len(theirs) > 5


def test_hidden_inputs_are_no_examples_and_constants_do_not_pass(sandbox):
    for task in first(8, level=(2, 4)):
        tests, examples = hidden_tests(task), example_tests(task)
        hidden = {call.arguments for call in tests.calls}
        assert len(hidden) == len(tests.calls) and not hidden & {
            c.arguments for c in examples.calls
        }
        assert encode((("",), {})) in hidden or any(
            not decode(arguments)[0][0] for arguments in hidden
        )  # the empty input is always asked
        known = {decode(c.arguments)[0].__repr__(): decode(c.expected) for c in examples.calls}
        cheat = (
            f"K = {known!r}\ndef f(*a): return K.get(repr(a), {decode(tests.calls[0].expected)!r})"
        )
        assert not run_tests(cheat, tests, sandbox).all_passed
        assert not run_tests("def f(x): return x", tests, sandbox).all_passed


def test_levels_as_a_curriculum():
    tasks = load_programs("levels", levels=[1, 3], size=4)
    assert len(tasks) == 8 and [tasks[i].difficulty for i in range(4)] == [0.0, 1.0, 0.0, 1.0]
    assert tasks.levels[1][0].difficulty == 3.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": 0}, "level must be within 1 and 5"),
        ({"level": (3, 2)}, "level must be within 1 and 5"),
        ({"level": 6}, "level must be within 1 and 5"),
        ({"kind": "class"}, "kind must be one of function, stdin"),
        ({"size": -1}, "size must not be negative"),
    ],
)
def test_bad_options_say_so(options, message):
    with pytest.raises(ValueError, match=message):
        ProgramTasks(**options)


def test_programs_of_one_type_of_argument():
    tasks = ProgramTasks(level=1, argument="int", size=30)
    assert all("of an integer n" in task.question for task in tasks)
    with pytest.raises(ValueError, match="argument must be one of int, ints, text, words, got 'x'"):
        ProgramTasks(argument="x")
