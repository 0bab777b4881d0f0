"""The worker process behind `verifier.py`. Run by path, never imported by the library.

It reads one JSON request a line from stdin and writes one JSON answer a line to what was
stdout. Each request runs under a CPU timer whose signal the kernel acts on by itself, so
nothing that holds the interpreter, such as the power of huge integers, can outlast it.

The worker serves many requests, as this user, so no judge may evaluate an answer as code.
math-verify 0.9 hands Python's parser digits and operators only (its pattern for plain
expressions has no letter), and builds the rest from its own grammar of LaTeX. Scorers that
evaluate answers belong in the sandbox, see `reasoning/`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any, BinaryIO

MEMORY_BYTES = 4 << 30


def _math_verify() -> Callable[[dict[str, Any]], bool]:
    import logging

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    _forbid_generated_code()

    def judge(request: dict[str, Any]) -> bool:
        # No time limits of its own: they need signals, and this process has a better one.
        gold, answer = (
            parse(f"${request[side]}$", parsing_timeout=0) for side in ("reference", "answer")
        )
        return bool(verify(gold, answer, timeout_seconds=0))

    judge({"reference": "\\frac12", "answer": "x+1"})  # builds its grammar before the clock runs
    return judge


def _forbid_generated_code() -> None:
    """No Python from sympy's expressions. To sum a series it would write its symbols into a
    function, and they are named by the answer: of `\\dot{(f())}` it makes the call `dot(f())`."""

    def refuse(*_: Any) -> str:
        raise ValueError("an answer is not made into code")

    import_module("sympy.utilities.lambdify")._EvaluatorPrinter.doprint = refuse


def _regex() -> Callable[[dict[str, Any]], bool]:
    import re

    def judge(request: dict[str, Any]) -> bool:
        find = re.fullmatch if request["full"] else re.search
        match = find(request["pattern"], request["text"], request["flags"])
        return (match is None) is bool(request["absent"])

    return judge


def _json_schema() -> Callable[[dict[str, Any]], bool]:
    from jsonschema.validators import validator_for
    from referencing import Registry

    def judge(request: dict[str, Any]) -> bool:
        schema = request["schema"]
        # An empty registry: a reference to elsewhere fails instead of being fetched.
        validator = validator_for(schema)(schema, registry=Registry())
        return bool(validator.is_valid(json.loads(request["text"])))

    judge({"schema": {"type": "object"}, "text": "{}"})
    return judge


JUDGES: dict[str, Callable[[], Callable[[dict[str, Any]], Any]]] = {
    "math-verify": _math_verify,
    "regex": _regex,
    "json-schema": _json_schema,
}


def _limit_resources() -> None:
    import resource

    for which, amount in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CORE, 0)):
        try:
            resource.setrlimit(which, (amount, amount))
        except (OSError, ValueError):  # a lower hard limit, or a system without this one
            pass


def _answer(judge: Callable[[dict[str, Any]], Any], request: dict[str, Any]) -> dict[str, Any]:
    signal.setitimer(signal.ITIMER_PROF, request["cpu_s"])
    try:
        return {"value": judge(request)}
    except BaseException as error:  # noqa: BLE001 - the boundary: whatever an answer provokes
        return {"failed": f"{type(error).__name__}: {error}"[:500]}
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def _serve(requests: BinaryIO, answers: BinaryIO) -> None:
    judges: dict[str, Callable[[dict[str, Any]], Any]] = {}
    for line in requests:
        request = json.loads(line)
        kind = request["kind"]
        if request.get("load"):
            reply: dict[str, Any] = {"value": True}
            if kind not in judges:
                try:
                    judges[kind] = JUDGES[kind]()
                except Exception as error:  # noqa: BLE001 - reported as infrastructure
                    reply = {"broken": f"{type(error).__name__}: {error}"[:500]}
        else:
            reply = _answer(judges[kind], request)
        answers.write(json.dumps(reply).encode() + b"\n")
        answers.flush()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when this ends
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):  # a judge that prints must not speak on the wire
        os.dup2(null, descriptor)
    start = json.loads(requests.readline())
    sys.path[:] = start["path"]
    _limit_resources()
    _serve(requests, answers)


if __name__ == "__main__":
    main()
