"""Score an answer with its family's own scorer, in a sandbox.

Several of these scorers evaluate the answer as an expression. So the answer must pass the
gates (`gates.py`) first, and every scorer runs in a session of its own: a fork of a server
that has reasoning-gym loaded, with no files, no network and nothing left over from another.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping
from functools import cache
from inspect import getsource

from ....sandbox import Execution, Limits, LocalSandbox, Sandbox, SandboxError, Status
from ...types import Invalid, Task
from . import inside
from .gates import settle

LIMITS = Limits(wall_s=60.0, cpu_s=5.0, memory_bytes=2 << 30)
"""For one answer. The CPU clock is meant to decide; the wall clock is for a starved machine."""
_PRELOAD = ("numpy", "sympy", "reasoning_gym")

_shared: LocalSandbox | None = None
_shared_lock = threading.Lock()


def scoring_sandbox() -> LocalSandbox:
    """The sandbox that scores where none is given: one for the process, ended with it."""
    global _shared
    with _shared_lock:
        if _shared is None:
            _shared = LocalSandbox(_PRELOAD, limits=LIMITS)
        return _shared


def score_reasoning(
    answer: str | None, task: Task, *, sandbox: Sandbox | None = None
) -> float | Invalid:
    """Score an extracted answer to a task of an `rg:` set, in [0, 1].

    An empty answer scores 0, although some families would pay it a little. So do answers
    that make the scorer fail or exceed its limits, and those that a scorer would evaluate
    though they are more than data or algebra. A lost sandbox is `Invalid("verifier")`.

    Args:
        sandbox: where scorers run; reasoning-gym must be among what it preloads.

    Raises:
        ValueError: the task is not from an `rg:` set.
    """
    asked = _ask(answer, task)
    if isinstance(asked, float):
        return asked
    try:
        return _conclude((sandbox or scoring_sandbox()).run(asked, limits=LIMITS))
    except SandboxError as error:
        return Invalid("verifier", str(error))


async def ascore_reasoning(
    answer: str | None, task: Task, *, sandbox: Sandbox | None = None
) -> float | Invalid:
    """`score_reasoning` without blocking the event loop."""
    asked = _ask(answer, task)
    if isinstance(asked, float):
        return asked
    try:
        return _conclude(await (sandbox or scoring_sandbox()).arun(asked, limits=LIMITS))
    except SandboxError as error:
        return Invalid("verifier", str(error))


def _ask(answer: str | None, task: Task) -> str | float:
    """The program that scores the answer, or the score where none has to run."""
    entry, family = task.metadata.get("entry"), task.metadata.get("family")
    if family is None or not isinstance(entry, Mapping):
        raise ValueError(
            f"task {task.id!r} has no reasoning-gym entry in its metadata: "
            f"score_reasoning takes tasks of load_tasks('rg:...')"
        )
    if answer is None or not answer.strip():
        return 0.0
    settled = settle(family, entry, answer)
    if settled is not None:
        return settled
    request = {
        "family": family,
        "options": task.metadata["options"],
        "entry": {"question": task.question, **entry},
        "answer": answer,
    }
    return f"{_source()}\nscore({json.dumps(request)!r})"


@cache
def _source() -> str:
    return getsource(inside)


def _conclude(execution: Execution) -> float | Invalid:
    if execution.status is Status.TIMEOUT and execution.cpu_s < LIMITS.cpu_s / 2:
        # No answer that passes the gates can sleep.
        return Invalid(
            "verifier", "no score within the wall-clock limit: the machine is overloaded"
        )
    if not execution.ok or execution.value is None:
        return 0.0
    try:
        value = float(execution.value)
    except ValueError:  # there is no scorer: its words
        return Invalid("verifier", execution.value)
    return 0.0 if math.isnan(value) else min(1.0, max(0.0, value))
