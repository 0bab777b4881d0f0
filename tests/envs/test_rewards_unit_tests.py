"""Unit tests as a reward: translation, verdicts."""

import math

import pytest

from palestra.envs.rewards.unit_tests import (
    Call,
    CheckTests,
    FunctionTests,
    StdioCase,
    StdioTests,
    UnsupportedTestError,
    arun_tests,
    decode,
    encode,
    run_tests,
    unit_tests_from_json,
    unit_tests_to_json,
)
from palestra.envs.rewards.unit_tests.translate import Pending, literal, translate
from palestra.envs.rewards.unit_tests.trusted import resolve
from palestra.sandbox import LocalSandbox


@pytest.fixture(scope="module")
def sandbox():
    with LocalSandbox(preload=()) as box:
        yield box


# Reading assertions.


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("assert f(1, k=2) == 3, 'why'", [Pending("_(1, k=2)", "3")]),
        ("assert 3 == f(1)", [Pending("_(1)", "3")]),
        ("assert f(1) is None", [Pending("_(1)", "None", "is")]),
        ("assert f(1)", [Pending("_(1)", rule="true")]),
        ("assert not f(1)", [Pending("_(1)", rule="false")]),
        ("assert abs(f(1) - 2.5) < 1e-6", [Pending("_(1)", "2.5", "close", "1e-06")]),
        ("assert math.fabs(2.5 - f(1)) < .1", [Pending("_(1)", "2.5", "close", "0.1")]),
        ("assert f(1) == 1 and f(2) == 2", [Pending("_(1)", "1"), Pending("_(2)", "2")]),
        ("'text'\nassert True\npass\nassert f() == 2 * x", [Pending("_()", "2 * x")]),
        ("assert f(*[1]) == g(2)", [Pending("_(*[1])", "g(2)")]),
    ],
)
def test_assertions_become_calls(source, expected):
    assert translate(source, "f") == expected


@pytest.mark.parametrize(
    "source",
    [
        "for i in range(3): assert f(i) == i",
        "x = 1\nassert f(x) == 1",
        "assert sorted(f(1)) == [1]",
        "assert f(f(1)) == 1",
        "assert f(1) == f(2)",
        "assert f(1) != 2",
        "assert f(1) in (1, 2)",
        "assert 0 < f(1) < 2",
        "assert abs(f(1) - 2) <= 0",
        "assert f(1) is x",
        "assert f(x := 1) == 1",
        "assert f(1).real == 1",
        "assert obj.f(1) == 1",
        "assert False",
        "assert f(1) == 2 or f(1) == 3",
    ],
)
def test_other_tests_are_left_as_they_are(source):
    assert translate(source, "f") is None


def test_only_literals_are_finished_without_a_session():
    assert literal(Pending("_([1], k={'a': (1.5,)})", "{1, 2}")) == Call(
        encode((([1],), {"k": {"a": (1.5,)}})), encode({1, 2})
    )
    for pending in (Pending("_(x)", "1"), Pending("_(1)", "2 * 3"), Pending("_(**{})", "1")):
        assert literal(pending) is None


def test_expressions_are_evaluated_in_a_session(sandbox):
    setup = "import math\nBASE = 10\ndef helper(n): return [n] * 3"
    pending = [
        Pending("_(BASE, *helper(2), k=BASE + 1)", "helper(BASE)"),
        Pending("_(1)", "2"),
        Pending("_(0)", "math.pi / 2", "close", "10 ** -3"),
    ]
    first, second, third = resolve(pending, setup, lambda: sandbox)
    assert decode(first.arguments) == ((10, 2, 2, 2), {"k": 11})
    assert first.accepts([10, 10, 10]) and second == Call.of((1,), 2)
    assert third.accepts(1.5708) and not third.accepts(1.58)
    assert resolve([Pending("_(helper)", "1")], setup, lambda: sandbox) is None


@pytest.mark.parametrize(
    ("pending", "setup", "message"),
    [
        (Pending("_(1)", "missing + 1"), "", "raised NameError"),
        (Pending("_(1)", "1 + 1"), "1 / 0", "test's own code ended with error: ZeroDivision"),
        (Pending("_(1)", "__import__('os')._exit(0)"), "", "gave no answer"),
    ],
)
def test_a_test_at_fault_says_so(sandbox, pending, setup, message):
    with pytest.raises(UnsupportedTestError, match=message):
        resolve([pending], setup, lambda: sandbox)


# Verdicts.


@pytest.mark.parametrize(
    ("call", "right", "wrong"),
    [
        (Call.of((), [1, (2,)]), [[1, (2,)]], [[1, [2]], (1, (2,)), None, "[1, (2,)]"]),
        (Call.of((), 1), [1, 1.0, True], [2, "1", None, [1]]),
        (Call("", "true", "is"), [True], [1, "true", None]),
        (Call("", "null", "is"), [None], [0, False, ""]),
        (Call("", rule="true"), [1, "x", [0]], [0, "", [], None]),
        (Call("", rule="false"), [0, "", None], [1, [None]]),
        (
            Call("", "2.5", "close", 0.1),
            [2.5, 2.55, 2.45],
            [2.6001, float("inf"), "2.5", None, math.nan],
        ),
        (Call("", '{"float":"nan"}'), [], [math.nan, 0.0]),
        (Call("", "[2]", "apps"), [2, [2], (2,)], [[[2]], [2, 2], [], None, {2}]),
        (Call("", "[[[1,2]]]", "apps"), [[(1, 2)], ([1, 2],), [[[1, 2]]]], [1, [1, 2]]),
        (Call("", "[1,2]", "apps"), [[1, 2], (1, 2)], [1, [[1, 2]], 2]),
    ],
)
def test_what_is_accepted(call, right, wrong):
    assert all(call.accepts(value) for value in right)
    assert not any(call.accepts(value) for value in wrong)


@pytest.mark.parametrize(
    ("match", "right", "wrong"),
    [
        ("tokens", ["a b\nc\n", "a  b c", " a\nb\nc\n\n"], ["a bc", "a b", "a b c d"]),
        ("lines", ["a b\nc\n", "a b  \nc\n\n", "a b\r\nc"], ["a  b\nc", "a b c", "a b\n\nc"]),
        ("exact", ["a b\nc\n"], ["a b\nc", "a b\nc\n\n", "a b \nc\n"]),
    ],
)
def test_how_output_is_compared(match, right, wrong):
    case = StdioCase("", "a b\nc\n")
    tests = StdioTests((case,), match)
    assert all(tests.accepts(case, output) for output in right)
    assert not any(tests.accepts(case, output) for output in wrong)


def test_failures_say_what_happened(sandbox):
    calls = FunctionTests("f", tuple(Call.of((n,), n) for n in range(5)))
    program = """
def f(n):
    if n == 1: return [n]
    if n == 2: raise KeyError("oh")
    if n == 3: return object()
    if n == 4: print(n)
    return n
"""
    report = run_tests(program, calls, sandbox, stop_early=False)
    assert (report.passed, report.total, report.fraction) == (2, 5, 0.4)
    assert [f.text for f in report.failures] == [
        "f(1) returned [1], expected 1",
        "f(2) raised KeyError: 'oh'",
        "f(3) returned a value of type object, which is not plain data",
    ]
    assert run_tests(program, calls, sandbox).failures == report.failures[:1]
    (failure,) = run_tests("def g(): pass", calls, sandbox).failures
    assert failure.text == "f(0) raised NameError: f is not defined"
    (failure,) = run_tests("def f(:", calls, sandbox).failures
    assert "the program failed: SyntaxError" in failure.text


def test_after_a_kill_the_program_is_loaded_again(sandbox):
    program = "import os\nK = 2\ndef f(n): return os._exit(0) if n == 1 else n * K"
    tests = FunctionTests("f", tuple(Call.of((n,), 2 * n) for n in range(4)))
    report = run_tests(program, tests, sandbox, stop_early=False)
    assert (report.passed, [f.test for f in report.failures]) == (3, [1])


def test_all_tests_together_have_a_budget(sandbox):
    tests = FunctionTests("f", tuple(Call.of((n,), n) for n in range(20)))
    program = "import time\ndef f(n): time.sleep(0.2); return n"
    report = run_tests(program, tests, sandbox, stop_early=False, budget_s=0.5)
    assert 0 < report.passed < 20 and "no time left" in report.failures[-1].text


def test_methods_and_preambles(sandbox):
    tests = FunctionTests("Solution.twice", (Call.of((4,), 8),), preamble="FACTOR = 2")
    program = "class Solution:\n    def twice(self, x): return x * FACTOR"
    assert run_tests(program, tests, sandbox).all_passed


@pytest.mark.parametrize("setup", ["", "from __future__ import annotations\n"])
def test_a_program_whose_function_is_called_is_a_module(sandbox, setup):
    """What it does when it is run itself is not done, and its classes are found where they are."""
    program = f"""{setup}
import pickle
from dataclasses import dataclass
@dataclass
class P:
    n: int
def f(n):
    return pickle.loads(pickle.dumps(P(n))).n
if __name__ == "__main__":
    print(f(int(input())))
    exit()
"""
    for tests in (
        FunctionTests("f", (Call.of((3,), 3),), preamble="import math"),
        CheckTests("f", "def check(candidate):\n    assert candidate(4) == 4"),
    ):
        report = run_tests(program, tests, sandbox)
        assert report.all_passed, report
    assert run_tests("def f(n): return n\nquit()", tests, sandbox).all_passed


def test_a_program_of_standard_input_is_run_itself_and_may_leave(sandbox):
    tests = StdioTests((StdioCase("3\n", "6\n"),))
    for leave in ("exit()", "exit(0)", "quit()", "raise SystemExit"):
        program = f"if __name__ == '__main__':\n    print(int(input()) * 2)\n    {leave}\nprint(0)"
        assert run_tests(program, tests, sandbox).all_passed, leave
    assert not run_tests("print(6)\nexit(1)", tests, sandbox).all_passed


CHECK = """
import random
def check(candidate):
    rng = random.Random(1)
    for _ in range(20):
        x = [rng.randrange(9) for _ in range(rng.randrange(5))]
        y = candidate(list(x), reverse=True)
        assert sorted(y) == sorted(x) and all(a >= b for a, b in zip(y, y[1:]))
    try:
        candidate(None)
    except TypeError as error:
        assert "None" in str(error)
    else:
        assert False, "no error"
"""


def test_a_check_runs_apart_from_the_program(sandbox):
    tests = CheckTests("f", CHECK)
    right = """
def f(x, reverse=False):
    if x is None: raise TypeError("None")
    return sorted(x, reverse=reverse)
"""
    assert run_tests(right, tests, sandbox).all_passed
    for wrong, words in [
        ("def f(x, reverse): return sorted(x or [])", "AssertionError"),
        ("def f(x, reverse): return list(x)", "AssertionError"),
        ("def f(x): return x", "TypeError"),
        ("def f(x, reverse=0): return object()", "not plain data"),
        ("class Odd(Exception): pass\ndef f(x, reverse=0): raise Odd('no')", "CandidateError: Odd"),
        ("x = 1 / 0", "the program failed: ZeroDivisionError"),
        ("def f(x, reverse=0): return len(globals().get('CHECK', CHECK))", "NameError"),
    ]:
        report = run_tests(wrong, tests, sandbox)
        assert report.passed == 0 and words in report.failures[0].text


@pytest.mark.parametrize(
    "check",
    [
        "def check(candidate): pass",
        "def check(candidate): assert False",
        "def check(candidate): candidate(print)",
        "raise ValueError('oh')",
        "def check(candidate): import os; os._exit(0)",
    ],
)
def test_a_check_at_fault_is_no_verdict(sandbox, check):
    with pytest.raises(UnsupportedTestError):
        run_tests("def f(x=0): return 1", CheckTests("f", check), sandbox)


def test_programs_of_standard_input(sandbox):
    tests = StdioTests((StdioCase("2\n3\n", "5\n"), StdioCase("", "0")))
    right = "import sys\nprint(sum(map(int, sys.stdin.read().split())))"
    assert run_tests(right, tests, sandbox).all_passed
    report = run_tests("print(int(input()) + int(input()))", tests, sandbox, stop_early=False)
    assert report.passed == 1 and "on the input ''" in report.failures[0].text
    assert "EOFError" in report.failures[0].text


def test_long_output_is_compared_whole(sandbox):
    tests = StdioTests((StdioCase("", "x" * 1_500_000),))
    assert run_tests("print('x' * 1_500_000)", tests, sandbox).all_passed
    assert not run_tests("print('x' * 1_499_999)", tests, sandbox).all_passed


@pytest.mark.parametrize(
    "tests",
    [
        FunctionTests(
            "f", (Call.of((1, "a"), {1: (2,)}), Call("x", "y", "close", 0.5)), "import os"
        ),
        CheckTests("f", CHECK, "x = 1"),
        StdioTests((StdioCase("a", "b"),), "lines"),
    ],
)
def test_tests_are_json(tests):
    import json

    assert unit_tests_from_json(json.dumps(unit_tests_to_json(tests))) == tests


def test_bad_tests_say_so():
    with pytest.raises(ValueError, match="match must be one of tokens"):
        StdioTests((), "words")
    with pytest.raises(ValueError, match="kind of function, check, stdio"):
        unit_tests_from_json({"kind": "pickle"})


def test_many_gradings_share_one_loop(sandbox):
    import asyncio

    tests = FunctionTests("f", (Call.of((3,), 6),))

    async def all_at_once():
        return await asyncio.gather(
            *(arun_tests(f"def f(n): return n * {k}", tests, sandbox) for k in range(12))
        )

    assert [r.passed for r in asyncio.run(all_at_once())] == [0, 0, 1] + [0] * 9
