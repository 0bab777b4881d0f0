"""Do a task set's hidden tests tell its solutions from small faults in them?

A mutant that gives the same results as the solution on every input of the hidden tests is
equivalent as far as anybody can see, and is left out. That is found out by running both
side by side in a session of its own, comparing reprs there (or differences, where a test
allows one): a path that has nothing in common with the grader but the sandbox. Where the
test is code, it is run there on the mutant itself, as its author meant it to be run.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from palestra.envs.python_exec.formats import hidden_tests, solution
from palestra.envs.python_exec.mutation import Mutant, mutants
from palestra.envs.rewards.unit_tests import (
    LIMITS,
    CheckTests,
    StdioTests,
    decode,
    run_tests,
)
from palestra.envs.types import Task
from palestra.sandbox import Limits, Sandbox

# CPU time ends the endless ones: a wall clock would judge the machine's load.
QUICK = replace(LIMITS, wall_s=60.0, cpu_s=0.5)

# Both programs see copies of the same arguments; what cannot be run counts as its exception.
_COMPARE = """
import copy, inspect
def outcome(function, call):
    try:
        args, kwargs = copy.deepcopy(call)
        result = function(*args, **kwargs)
        return repr(list(result) if inspect.isgenerator(result) else result)
    except Exception as error:
        return "raised " + type(error).__name__
def same(call, tolerance):
    ours, theirs = outcome(reference, call), outcome(changed, call)
    try:
        return ours == theirs or abs(float(ours) - float(theirs)) < tolerance
    except ValueError:
        return False
def load(source):
    names = {"__name__": "program"}
    exec(source, names)
    return names
"""


@dataclass
class Audit:
    """What came of the mutants of one task."""

    total: int = 0
    equivalent: list[Mutant] = field(default_factory=list)
    caught: int = 0
    passed: list[Mutant] = field(default_factory=list)


def audit(task: Task, sandbox: Sandbox, *, most: int | None = None) -> Audit:
    """Grade the mutants of a task's solution (`most` of them, spread evenly)."""
    tests, program = hidden_tests(task), solution(task)
    found = some_mutants(task, most)
    result = Audit(len(found))
    for mutant in found:
        if same_results(program, mutant.source, tests, sandbox):
            result.equivalent.append(mutant)
        elif run_tests(mutant.source, tests, sandbox, limits=QUICK).all_passed:
            result.passed.append(mutant)
        else:
            result.caught += 1
    return result


def some_mutants(task: Task, most: int | None = None) -> list[Mutant]:
    """The mutants of a task's solution, or `most` of them, spread evenly."""
    found = mutants(solution(task))
    if most is None or len(found) <= most:
        return found
    return [found[i * len(found) // most] for i in range(most)]


def same_results(reference: str, mutant: str, tests, sandbox: Sandbox) -> bool:
    """Whether two programs do the same on every input of the tests."""
    if isinstance(tests, StdioTests):
        return _same_output(reference, mutant, tests, sandbox)
    with sandbox.open(Limits(wall_s=60.0, cpu_s=1.0)) as session:
        session.run(_COMPARE)
        preamble = getattr(tests, "preamble", "")
        session.run(f"reference = load({preamble + chr(10) + reference!r})[{tests.entry_point!r}]")
        loaded = session.run(
            f"changed = load({preamble + chr(10) + mutant!r})[{tests.entry_point!r}]"
        )
        if not loaded.ok:
            return False
        if isinstance(tests, CheckTests):
            assert session.run(tests.check).ok
            return session.run("check(changed)").ok
        calls = [(decode(call.arguments), call.tolerance) for call in tests.calls]
        session.run(f"inf, nan = float('inf'), float('nan')\nCALLS = {calls!r}")
        return session.run("all(same(*call) for call in CALLS)").value == "True"


def _same_output(reference: str, mutant: str, tests: StdioTests, sandbox: Sandbox) -> bool:
    limits = Limits(wall_s=60.0, cpu_s=1.0)
    for case in tests.cases:
        ours, theirs = (
            sandbox.run(program, stdin=case.stdin, limits=limits) for program in (reference, mutant)
        )
        if not theirs.ok or ours.stdout.split() != theirs.stdout.split():
            return False
    return True
