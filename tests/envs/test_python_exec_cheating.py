"""Nobody is paid for cheating: reading tests, patching graders, lying values, early exits.

The verdict must be a plain failure. A program that could make its episode invalid at will
could dodge every failure, so `SandboxError` would be as bad as a reward.
"""

from dataclasses import replace

import pytest
from cheats import BOMBS, CHEATS, EXPECTED, HUNTS, SECRET

import palestra
from palestra.envs.python_exec.formats import Problem
from palestra.envs.rewards.unit_tests import (
    LIMITS,
    Call,
    CheckTests,
    FunctionTests,
    StdioCase,
    StdioTests,
    run_tests,
)
from palestra.envs.types import Outcome
from palestra.sandbox import LocalSandbox

# Short limits can only help a cheat to fail sooner; what must pass has the usual ones.
QUICK = replace(LIMITS, wall_s=1.0, cpu_s=0.3, memory_bytes=256 << 20)
CALLS = FunctionTests("f", tuple(Call.of((n,), text) for n, text in EXPECTED.items()))
# `zip` and `map` draw answers lazily; `is` and `in` are other ways to be lied to.
CHECK = CheckTests(
    "f",
    f"""
EXPECTED = {EXPECTED!r}
def check(candidate):
    for answer, right in zip(map(candidate, EXPECTED), EXPECTED.values()):
        assert answer == right
    assert [candidate(n) for n in EXPECTED] == list(EXPECTED.values())
    assert candidate(1) in EXPECTED.values()
""",
)
STDIO = StdioTests(tuple(StdioCase(f"{n}\n", f"{text}\n") for n, text in EXPECTED.items()))
HONEST = f"KNOWN = {EXPECTED!r}\ndef f(n): return KNOWN[n]"
PRINTS = f"KNOWN = {EXPECTED!r}\nprint(KNOWN[int(input())])"


@pytest.fixture(scope="module")
def sandbox():
    with LocalSandbox(preload=()) as box:
        yield box


def test_the_tests_can_be_passed_by_who_knows(sandbox):
    for program, tests in ((HONEST, CALLS), (HONEST, CHECK), (PRINTS, STDIO)):
        assert run_tests(program, tests, sandbox).all_passed


@pytest.mark.parametrize("hunt", ["garbage collector", "modules", "frames", "traceback"])
def test_the_hunts_find_what_is_there(sandbox, hunt):
    leaky = FunctionTests("f", CALLS.calls, preamble=f"LEAK = {EXPECTED!r}")
    assert run_tests(CHEATS[hunt], leaky, sandbox, limits=QUICK, stop_early=False).passed == 1


@pytest.mark.parametrize("cheat", CHEATS)
def test_cheating_a_function_test_fails(sandbox, cheat):
    report = run_tests(CHEATS[cheat], CALLS, sandbox, limits=QUICK)
    assert report.passed == 0 and len(report.failures) == 1
    assert SECRET not in report.failures[0].text.partition("expected")[0]


@pytest.mark.parametrize("cheat", [name for name in CHEATS if name not in BOMBS])
def test_cheating_a_check_fails(sandbox, cheat):
    assert run_tests(CHEATS[cheat], CHECK, sandbox, limits=QUICK).passed == 0


@pytest.mark.slow
@pytest.mark.parametrize("tests", [CALLS, CHECK], ids=["calls", "check"])
@pytest.mark.parametrize("cheat", CHEATS)
def test_cheating_fails_also_with_the_usual_limits(sandbox, cheat, tests):
    assert run_tests(CHEATS[cheat], tests, sandbox).passed == 0


@pytest.mark.slow
@pytest.mark.parametrize("cheat", CHEATS)
def test_cheating_pays_no_part_either(sandbox, cheat):
    report = run_tests(CHEATS[cheat], CALLS, sandbox, limits=QUICK, stop_early=False)
    assert report.passed == 0 and report.fraction == 0.0


STDIO_CHEATS = {
    **{name: f"{source}\nprint(f(int(input())))" for name, source in HUNTS.items()},
    "nothing": "",
    "exit with code 0": "import sys\nsys.exit(0)",
    "exit at once with code 0": "import os\nos._exit(0)",
    "a claim": "print('{\"passed\": true}')\nprint('OK')",
    "white space only": "print('\\n' * 50)",
    "a last value": f"{SECRET[:3]!r} + {SECRET[3:]!r}",
    "right and then endless": "\nwhile True: pass",
    "too much output": "while True: print('sesa' + 'me-919')",
    "an answer to standard error": f"{PRINTS.replace('print(', 'import sys; sys.stderr.write(')}",
    "the input again": "print(input())",
    "a closed standard output": "import os\nos.close(1)",
}


@pytest.mark.parametrize("cheat", STDIO_CHEATS)
def test_cheating_a_program_test_fails(sandbox, cheat):
    assert run_tests(STDIO_CHEATS[cheat], STDIO, sandbox, limits=QUICK).passed == 0


@pytest.mark.parametrize("ending", ["import os; os._exit(0)", "1 / 0", "while True: pass"])
def test_right_output_from_a_program_that_does_not_end_well_is_no_pass(sandbox, ending):
    program = f"{PRINTS}\n{ending}"
    assert run_tests(program, STDIO, sandbox, limits=QUICK).passed == 0


PREPARE = """
import builtins, os, random, sys
open("answers.py", "w").write("def f(n): return builtins.LOOT[n]")
open("/tmp/answers.py", "w").write("x = 1") if os.path.isdir("/tmp") else None
builtins.LOOT = {n: f"loot-{n}" for n in range(9)}
builtins.print = builtins.repr = lambda *a: "sabotage"
sys.modules["json"] = None
def f(n): return LOOT[n]
"""
COLLECT = """
import builtins, sys
sys.path.insert(0, "."); sys.path.insert(0, "/tmp")
if hasattr(builtins, "LOOT") or "f" in globals():
    def f(n): return f"loot-{n}"
else:
    try:
        from answers import f
    except ImportError:
        def f(n): return None
"""


def test_nothing_left_in_the_agents_session_reaches_the_grader(sandbox):
    loot = FunctionTests("f", tuple(Call.of((n,), f"loot-{n}") for n in range(3)))
    task = Problem("Write f.", loot, loot).to_task("loot", "train")
    env = palestra.make("palestra/PythonExec-v0", tasks=[task], sandbox=sandbox)
    env.reset(seed=0)
    assert "3 of 3" in env.step(f"```python\n{PREPARE}\n```")[0][0].content
    assert "f(0) returned None" in env.step(f"```python\n{COLLECT}\n```")[0][0].content
    _, reward, _, _, info = env.step("Done.")
    assert reward == 0.0 and info["outcome"] is Outcome.VALID
    env.close()


def test_nothing_is_left_from_one_grading_to_the_next(sandbox):
    stash = "open('seen', 'a').write('x')\ndef f(n): return len(open('seen').read())"
    tests = FunctionTests("f", (Call.of((0,), 1),))
    assert [run_tests(stash, tests, sandbox).passed for _ in range(3)] == [1, 1, 1]


@pytest.mark.parametrize("cheat", ["garbage collector", "a lying str", "os._exit(0) when called"])
def test_the_environment_pays_nothing_and_is_valid(sandbox, cheat):
    task = Problem("Write f.", CALLS).to_task("cheat", "train")
    env = palestra.make("palestra/PythonExec-v0", tasks=[task], sandbox=sandbox)
    env.reset(seed=0)
    _, reward, ended, _, info = env.step(f"```python\n{CHEATS[cheat]}\n```\nDone.")
    assert (reward, ended, info["outcome"]) == (0.0, True, Outcome.VALID)
    env.close()
