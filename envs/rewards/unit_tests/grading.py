"""Whether a program passes unit tests, decided outside of it.

The program runs in a session made for this grading. What it is sent are the arguments of
one call at a time, or a standard input; what it sends back is text that is parsed here to
plain data and compared here. Expected values never enter its session, its exit code means
nothing, and no answer is a failed test. Tests that are no list of calls run in a second
session, which sees plain data from the program and nothing else of it.

A `SandboxError` passes through: there is no verdict then, and the episode is invalid.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ....sandbox.base import Sandbox, Session
from ....sandbox.types import Execution, Limits, Status
from ...records import Record
from . import trusted
from .inside import NotPlainError, decode
from .spec import CheckTests, FunctionTests, StdioCase, StdioTests, UnitTests, show
from .translate import UnsupportedTestError

LIMITS = Limits(
    wall_s=10.0,
    cpu_s=5.0,
    memory_bytes=1 << 30,
    output_bytes=512 << 10,
    output_kill_bytes=4 << 20,
)
"""For a graded program; time for each call, and for each standard input."""
BUDGET_S = 60.0
_MAX_SHOWN = 300


@dataclass(frozen=True, slots=True)
class Failure(Record):
    """A failed test: its number from 0, and what went wrong, in words for the agent."""

    test: int
    text: str


@dataclass(frozen=True, slots=True)
class Report(Record):
    """What came of a program's tests.

    Attributes:
        passed, total: tests passed, and all there are.
        failures: of the tests that were run, in order.
        seconds: how long program and checks ran.
    """

    passed: int
    total: int
    failures: tuple[Failure, ...] = ()
    seconds: float = 0.0

    @property
    def all_passed(self) -> bool:
        return self.passed == self.total > 0

    @property
    def fraction(self) -> float:
        return self.passed / self.total if self.total else 0.0


async def arun_tests(
    program: str,
    tests: UnitTests,
    sandbox: Sandbox,
    *,
    limits: Limits = LIMITS,
    stop_early: bool = True,
    budget_s: float = BUDGET_S,
    seed: int = 0,
) -> Report:
    """Run `tests` on `program`, in fresh sessions that are closed afterwards.

    Args:
        stop_early: stop at the first failure; later tests then count as failed.
        budget_s: time for all tests together; those beyond it fail.
        seed: of the program's `random`.

    Raises:
        UnsupportedTestError: a check is at fault itself, whatever the program.
        SandboxError: the sandbox was lost.
    """
    grading = _Grading(program, sandbox, limits, stop_early, budget_s, seed, len(tests))
    async with grading:
        if isinstance(tests, FunctionTests):
            await grading.calls(tests)
        elif isinstance(tests, CheckTests):
            await grading.check(tests)
        else:
            await grading.stdio(tests)
    return Report(grading.passed, len(tests), tuple(grading.failures), grading.seconds)


def run_tests(program: str, tests: UnitTests, sandbox: Sandbox, **options: Any) -> Report:
    """`arun_tests`, blocking. Not for use inside an event loop."""
    return asyncio.run(arun_tests(program, tests, sandbox, **options))


class _Grading:
    """One program, being graded."""

    def __init__(
        self,
        program: str,
        sandbox: Sandbox,
        limits: Limits,
        stop_early: bool,
        budget_s: float,
        seed: int,
        total: int,
    ) -> None:
        self.program, self.sandbox, self.limits, self.seed = program, sandbox, limits, seed
        self.stop_early, self.budget_s, self.total = stop_early, budget_s, total
        self.passed, self.seconds = 0, 0.0
        self.failures: list[Failure] = []
        self._session: Session | None = None

    async def __aenter__(self) -> _Grading:
        return self

    async def __aexit__(self, *error: object) -> None:
        self._drop()

    # Functions.

    async def calls(self, tests: FunctionTests) -> None:
        """Every call of `FunctionTests`; a program that was killed is loaded again."""
        for number, call in enumerate(tests.calls):
            shown = _cut(call.shown(tests.entry_point))
            try:
                answer = await self._answer(tests.entry_point, tests.preamble, call.arguments)
                value = _value(answer)
                if not call.accepts(value):
                    expected = _cut(call.demand())
                    raise _FailedError(f"returned {_cut(show(value))}, expected {expected}")
            except _FailedError as failure:
                if self._fail(number, failure.about(shown)):
                    return
            else:
                self.passed += 1

    async def check(self, tests: CheckTests) -> None:
        """A check in a session of trusted code, its calls forwarded to the program's."""
        limits = trusted.LIMITS
        async with await self.sandbox.aopen(limits, seed=self.seed) as judge:
            trusted.run_setup(await judge.arun(tests.check))
            await judge.arun(trusted.install("Checker(names['check'])", trusted=True))
            answer: dict[str, Any] | None = None
            while True:
                execution = await judge.arun(trusted.ask(json.dumps(answer) if answer else None))
                self.seconds += execution.duration_s
                said = trusted.said(execution) or {"failed": ["TimeoutError", "no verdict"]}
                if "call" not in said:
                    break
                try:
                    answer = await self._answer(tests.entry_point, tests.preamble, said["call"])
                except _FailedError as failure:
                    self._fail(0, str(failure))
                    return
        self._conclude(said, called=answer is not None)

    def _conclude(self, said: Mapping[str, Any], called: bool) -> None:
        """What a check came to. One that ends without the program is itself at fault."""
        passed = said.get("passed") is True
        reason = said.get("unsupported") or ": ".join(said.get("failed", ["nothing"]))
        if not called:
            raise UnsupportedTestError(
                f"the check {'passes' if passed else 'ends'} without an answer of the program "
                f"({reason}): expected it to call its argument with plain data"
            )
        if passed:
            self.passed = 1
        else:
            self._fail(0, reason)

    async def _answer(self, entry_point: str, preamble: str, arguments: str) -> dict[str, Any]:
        """What the program says to one call: `{"value": text}` or `{"error": [name, text]}`,
        both of its own making."""
        session = self._session or await self._load(entry_point, preamble)
        execution = await session.arun(trusted.ask(arguments), wall_s=self._time_left())
        self.seconds += execution.duration_s
        if execution.status not in (Status.OK, Status.ERROR):
            self._drop()
        answer = trusted.said(execution)
        if answer is None:
            raise _FailedError(_ending(execution))
        if isinstance(answer.get("value"), str):
            return {"value": answer["value"]}
        error = answer.get("error")
        if not isinstance(error, list) or [type(part) for part in error] != [str, str]:
            raise _FailedError("gave no answer")
        return {"error": error}

    async def _load(self, entry_point: str, preamble: str) -> Session:
        session = self._session = await self.sandbox.aopen(self.limits, seed=self.seed)
        if preamble:
            trusted.run_setup(await session.arun(preamble))
        await session.arun(trusted.install(f"Callee(names, {entry_point!r})", trusted=False))
        execution = await session.arun(self.program, wall_s=self._time_left())
        self.seconds += execution.duration_s
        if not execution.ok:
            self._drop()
            raise _FailedError(f"the program {_ending(execution)}")
        return session

    # Whole programs.

    async def stdio(self, tests: StdioTests) -> None:
        """Every case of `StdioTests`, each in a session of its own."""
        for number, case in enumerate(tests.cases):
            try:
                await self._case(case, tests)
            except _FailedError as failure:
                if self._fail(number, failure.about(f"on the input {_cut(repr(case.stdin))}")):
                    return
            else:
                self.passed += 1

    async def _case(self, case: StdioCase, tests: StdioTests) -> None:
        room = max(self.limits.output_bytes, 2 * len(case.stdout.encode()) + 4096)
        limits = replace(self.limits, output_bytes=room)
        async with await self.sandbox.aopen(limits, seed=self.seed) as session:
            wall_s = self._time_left()
            execution = await session.arun(self.program, stdin=case.stdin, wall_s=wall_s)
        self.seconds += execution.duration_s
        if not execution.ok:
            raise _FailedError(f"the program {_ending(execution)}")
        if execution.truncated or not tests.accepts(case, execution.stdout):
            got, wanted = _cut(repr(execution.stdout)), _cut(repr(case.stdout))
            raise _FailedError(f"printed {got}, expected {wanted}")

    # Both.

    def _fail(self, number: int, text: str) -> bool:
        """Note a failure; whether to stop here."""
        self.failures.append(Failure(number, text))
        return self.stop_early

    def _time_left(self) -> float:
        left = self.budget_s - self.seconds
        if left <= 0:
            raise _FailedError(f"no time left: all tests together have {self.budget_s:g} s")
        return min(left, self.limits.wall_s)

    def _drop(self) -> None:
        if self._session is not None:
            self._session.close()
            self._session = None


class _FailedError(Exception):
    """A test failed; the text says why."""

    def about(self, subject: str) -> str:
        return f"{subject}: {self}" if str(self).startswith("the program") else f"{subject} {self}"


def _value(answer: Mapping[str, Any]) -> Any:
    """The plain data in what a program said. Raises _FailedError where there are none."""
    if "error" in answer:
        name, words = answer["error"]
        raise _FailedError(
            f"returned {words}" if name == NotPlainError.__name__ else f"raised {name}: {words}"
        )
    try:
        return decode(answer["value"])
    except NotPlainError as error:
        raise _FailedError("gave no answer") from error


def _ending(execution: Execution) -> str:
    """How a cell that gave no answer ended."""
    if execution.status is Status.TIMEOUT:
        return "took too long"
    if execution.status is Status.MEMORY:
        return "took too much memory"
    if execution.status is Status.OUTPUT:
        return "printed too much"
    lines = [line for line in execution.stderr.splitlines() if line.strip()]
    return f"failed: {_cut(lines[-1])}" if lines else "gave no answer"


def _cut(text: str) -> str:
    if len(text) <= _MAX_SHOWN:
        return text
    half = _MAX_SHOWN // 2
    return f"{text[:half]}...{text[-half:]}"
