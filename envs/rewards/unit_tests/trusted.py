"""Sessions of trusted code: the test's own side, which no model code ever enters."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cache
from inspect import getsource
from typing import Any

from ....sandbox.base import Sandbox, Session
from ....sandbox.types import Execution, Limits
from . import inside, judge
from .inside import NotPlainError, decode
from .spec import Call
from .translate import Pending, UnsupportedTestError, literal

LIMITS = Limits(
    wall_s=20.0,
    cpu_s=10.0,
    memory_bytes=1 << 30,
    output_bytes=1 << 20,
    output_kill_bytes=4 << 20,
)
_COLLECT = "lambda *args, **kwargs: (args, kwargs)"


def install(make: str, *, trusted: bool) -> str:
    """A cell that defines `_palestra_` by `make`, an expression over the names of `inside`,
    of `judge` in a session of trusted code, and `names`, the session's own namespace."""
    return (
        f"_palestra_ = (lambda names, own: [exec({_source(trusted)!r}, own), "
        f"eval({make!r}, own, {{'names': names}})][1])(globals(), {{'__name__': 'inside'}})"
    )


def ask(text: str | None = None) -> str:
    """A cell that calls `_palestra_` and echoes what it says."""
    return "_palestra_()" if text is None else f"_palestra_({text!r})"


def said(execution: Execution) -> dict[str, Any] | None:
    """What a cell made by `ask` echoed: a JSON object, or None if it is none."""
    if not execution.ok or execution.value is None:
        return None
    try:
        answer = json.loads(execution.value)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


def resolve(
    pending: Sequence[Pending], setup: str, get_sandbox: Callable[[], Sandbox]
) -> list[Call] | None:
    """Finished calls; expressions that are no literals are evaluated after `setup` in a
    session of their own, if there are any. None where one of them is not plain data.

    Raises:
        UnsupportedTestError: the setup or an expression fails.
        SandboxError: the sandbox was lost.
    """
    calls = [literal(one) for one in pending]
    if all(call is not None for call in calls):
        return [call for call in calls if call is not None]
    with get_sandbox().open(LIMITS) as session:
        run_setup(session.run(setup))
        session.run(f"_ = {_COLLECT}")
        session.run(install("Evaluator(names)", trusted=True))
        try:
            return [
                call or _evaluated(one, session) for call, one in zip(calls, pending, strict=True)
            ]
        except NotPlainError:
            return None


def run_setup(execution: Execution) -> None:
    """Raises UnsupportedTestError if the trusted code of a test failed."""
    if not execution.ok:
        lines = execution.stderr.strip().splitlines() or ["no message"]
        raise UnsupportedTestError(
            f"the test's own code ended with {execution.status}: {lines[-1]}"
        )


def _evaluated(one: Pending, session: Session) -> Call:
    arguments = _value(session, one.arguments)
    expected = _value(session, one.expected)
    tolerance = float(decode(_value(session, one.tolerance)))
    return Call(arguments, expected, one.rule, tolerance)


def _value(session: Session, expression: str) -> str:
    answer = said(session.run(ask(expression)))
    if answer is None:
        raise UnsupportedTestError(f"the test's expression {expression!r:.200} gave no answer")
    if "error" not in answer:
        return str(answer["value"])
    name, text = answer["error"]
    if name == NotPlainError.__name__:
        raise NotPlainError(text)
    raise UnsupportedTestError(f"the test's expression {expression!r:.200} raised {name}: {text}")


@cache
def _source(trusted: bool) -> str:
    future = "from __future__ import annotations\n"
    first, second = getsource(inside), getsource(judge)
    return f"{first}\n{second.partition(future)[2]}" if trusted else first
