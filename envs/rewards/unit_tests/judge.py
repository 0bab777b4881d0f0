"""The test's side of a grading, in a session of trusted code.

Sessions are given the source of this file after that of `inside`, in one namespace, which is
where the names come from that are imported below for the type checker only.
"""

from __future__ import annotations

import builtins
import json
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .inside import NotPlainError, Said, decode, described, encode


class Evaluator:
    """Runs in a session of trusted code: evaluates test expressions to plain data."""

    def __init__(self, names: dict[str, Any]) -> None:
        self.names = names

    def __call__(self, expression: str) -> Said:
        try:
            return Said(value=encode(eval(expression, self.names)))
        except BaseException as error:  # noqa: BLE001 - goes to the host as data
            return Said(error=described(error))


class Checker:
    """Runs in a session of trusted code: a check whose candidate lives elsewhere.

    The check runs in a thread. Each call of the candidate ends the cell that is waiting in
    `__call__` with the arguments; the next cell brings the answer.
    """

    def __init__(self, check: Callable[[Callable[..., Any]], Any]) -> None:
        self._check = check
        self._asked: SimpleQueue[Said] = SimpleQueue()
        self._answered: SimpleQueue[dict[str, Any]] = SimpleQueue()
        self._started = False

    def __call__(self, answer: str = "") -> Said:
        if self._started:
            self._answered.put(json.loads(answer))
        else:
            self._started = True
            threading.Thread(target=self._run, daemon=True).start()
        return self._asked.get()

    def _run(self) -> None:
        try:
            self._check(self._candidate)
        except BaseException as error:  # noqa: BLE001 - a failed check
            self._asked.put(Said(failed=described(error)))
        else:
            self._asked.put(Said(passed=True))

    def _candidate(self, *args: Any, **kwargs: Any) -> Any:
        try:
            arguments = encode((args, kwargs))
        except NotPlainError as error:
            self._asked.put(Said(unsupported=str(error)))
            raise
        self._asked.put(Said(call=arguments))
        answer = self._answered.get()
        if "error" in answer:
            raise _exception(*answer["error"])
        return decode(answer["value"])


class CandidateError(Exception):
    """The candidate raised something that is no built-in exception."""


def _exception(name: str, text: str) -> Exception:
    kind = getattr(builtins, name, None)
    # An iterator's end would cut short a check that draws answers with `map`.
    ends = (StopIteration, StopAsyncIteration)
    if isinstance(kind, type) and issubclass(kind, Exception) and not issubclass(kind, ends):
        try:
            return kind(text)
        except TypeError:  # UnicodeDecodeError and its like take more
            pass
    return CandidateError(f"{name}: {text}")
