"""The worker process behind `verifier.py`. Run by path, never imported by the library.

It reads one JSON request a line from stdin and writes one JSON answer a line to what was
stdout. Each request runs under a CPU timer whose signal the kernel acts on by itself, so
nothing that holds the interpreter, such as the power of huge integers, can outlast it.
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
# What a grader never needs. Some graders evaluate the answer as an expression, so answers
# can reach these; the hook cannot be removed once it is set.
_FORBIDDEN = ("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.kill", "os.remove",
              "os.rename", "os.rmdir", "os.putenv", "subprocess.", "socket.", "ctypes.",
              "shutil.", "signal.", "pty.", "webbrowser.")  # fmt: skip
_judging = False
_package = ""  # the package that this file lies in, as the parent imported it


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _judging:
        return
    writes = event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR)
    if writes or event.startswith(_FORBIDDEN):
        raise PermissionError(f"an answer tried to reach {event}")


def _math_verify() -> Callable[[dict[str, Any]], bool]:
    import logging

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)

    def judge(request: dict[str, Any]) -> bool:
        # No time limits of its own: they need signals, and this process has a better one.
        gold, answer = (
            parse(f"${request[side]}$", parsing_timeout=0) for side in ("reference", "answer")
        )
        return bool(verify(gold, answer, timeout_seconds=0))

    judge({"reference": "\\frac12", "answer": "x+1"})  # builds its grammar before the clock runs
    return judge


def _reasoning_gym() -> Callable[[dict[str, Any]], Any]:
    import reasoning_gym  # noqa: F401 - loaded before the clock runs

    score = import_module(f"{_package}.reasoning").score_entry

    def judge(request: dict[str, Any]) -> Any:
        return score(request["family"], request["options"], request["entry"], request["answer"])

    return judge


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
    "reasoning-gym": _reasoning_gym,
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
    global _judging
    signal.setitimer(signal.ITIMER_PROF, request["cpu_s"])
    _judging = True
    try:
        return {"value": judge(request)}
    except BaseException as error:  # noqa: BLE001 - the boundary: whatever an answer provokes
        return {"failed": f"{type(error).__name__}: {error}"[:500]}
    finally:
        _judging = False
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
    global _package
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when this ends
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGPROF})
    requests = os.fdopen(os.dup(0), "rb")
    answers = os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1):  # a judge that prints must not speak on the wire
        os.dup2(null, descriptor)
    start = json.loads(requests.readline())
    sys.path[:], _package = start["path"], start["package"]
    _limit_resources()
    sys.addaudithook(_audit)
    _serve(requests, answers)


if __name__ == "__main__":
    main()
