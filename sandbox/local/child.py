"""The runner: what a session's process does after it has been locked in.

It reads cells from descriptor 3, runs them in one namespace, and answers with JSON. It shares
its process with the code it runs, so nothing it says is believed further than "an exception
was raised"; everything that matters is decided outside. Names it needs later are bound at
import, which keeps it working when a cell replaces builtins or modules by mistake.
"""

from __future__ import annotations

import ast
import io
import linecache
import os
import sys
import time
import traceback
import types
from typing import Any, NoReturn

from . import kernel, wire
from .stdin import Input

CONTROL = 3  # the session's socket
EXIT_SETUP, EXIT_PROTOCOL = 70, 71
MAX_TRACEBACK = 32 << 10

_read, _write, _exit = os.read, os.write, os._exit
_compile, _parse, _eval, _repr = compile, ast.parse, eval, repr
_Expression, _Expr = ast.Expression, ast.Expr
_TracebackException = traceback.TracebackException
_cpu = time.process_time
_ADMIN = 1 << kernel.CAP_SYS_ADMIN
_raise_right = kernel.capabilities(effective=_ADMIN, permitted=_ADMIN)
_lower_right = kernel.capabilities(effective=0, permitted=_ADMIN)
_id_address = kernel.thread_id_address()
_streams: list[io.TextIOWrapper] = []


def prepare_streams() -> None:
    """Make `sys.stdout` and `sys.stderr` plain, line-buffered and impossible to fail on text.

    Done once in the zygote: descriptors 1 and 2 are put in place after each fork, and another
    `sys.stdin` before each cell that has input, or that follows one.
    """
    Input.expect_none()
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        raw = io.FileIO(descriptor, "w", closefd=False)
        stream = io.TextIOWrapper(
            io.BufferedWriter(raw), "utf-8", errors="backslashreplace", line_buffering=True
        )
        stream.mode = "w"  # type: ignore[misc]
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
        _streams.append(stream)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr, *_streams):
        try:
            stream.flush()
        except BaseException:  # noqa: BLE001 - whatever a cell put in its place
            pass


def _say(text: str) -> None:
    data = text.encode("utf-8", "backslashreplace")
    while data:
        data = data[_write(2, data) :]


def _cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n... [{len(text) - 2 * half} characters cut] ...\n{text[-half:]}"


def _describe(error: BaseException) -> str:
    """The traceback as the user's own program would show it: without the runner's frames."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__package__") == __package__:
        trace = trace.tb_next
    try:
        lines = _TracebackException(type(error), error, trace, compact=True).format()
        return _cut("".join(lines), MAX_TRACEBACK)
    except BaseException as second:  # noqa: BLE001 - an exception whose str() raises
        return f"{type(error).__name__} (its traceback failed with {type(second).__name__})\n"


def _execute(source: str, name: str, namespace: dict[str, Any]) -> Any:
    """Run a cell; the value of its last statement if that is an expression."""
    tree = _parse(source, name)
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, _Expr):
        return _eval(_compile(tree, name, "exec"), namespace)
    del tree.body[-1]
    if tree.body:
        _eval(_compile(tree, name, "exec"), namespace)
    return _eval(_compile(_Expression(last.value), name, "eval"), namespace)


def _run(
    cell: int, source: str, stdin: Input, namespace: dict[str, Any], cut: int
) -> dict[str, Any]:
    name = f"<cell {cell}>"
    linecache.cache[name] = (len(source), None, [f"{line}\n" for line in source.splitlines()], name)
    answer: dict[str, Any] = {"id": cell, "value": None, "error": None}
    try:
        stdin.put_in_place()
        value = _execute(source, name, namespace)
        if value is not None:
            answer["value"] = _cut(_repr(value), cut)
    except SystemExit as error:
        if error.code not in (None, 0):
            answer["error"] = "SystemExit"
            _flush()
            _say(_describe(error))
    except BaseException as error:  # noqa: BLE001 - this is the boundary
        answer["error"] = "MemoryError" if isinstance(error, MemoryError) else "Exception"
        _flush()
        _say(_describe(error))
    _flush()
    answer["cpu"] = _cpu()
    return answer


def _fresh_namespace() -> dict[str, Any]:
    """A new `__main__`, with the `exit` and `quit` that Python's `site` would have defined."""
    module, builtins = types.ModuleType("__main__"), sys.modules["builtins"]
    builtins.exit = builtins.quit = sys.exit  # type: ignore[attr-defined]
    module.__builtins__ = builtins  # type: ignore[attr-defined]
    sys.modules["__main__"] = module
    return module.__dict__


def seed_everything(seed: int) -> None:
    """Seed `random` and, when it is loaded, numpy's global generator."""
    if "random" in sys.modules:
        sys.modules["random"].seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % (1 << 32))


def _copy_session() -> dict[str, Any]:
    """Fork into an independent session; see `copies`. Returns in both processes.

    The answer is for the original; the copy has no call to answer and gets an empty one.
    """
    _flush()
    here = os.getcwd()  # noqa: PTH109
    if _fork_copy():
        return {"id": 0, "error": None, "cpu": _cpu()}
    _raise_right()
    kernel.unshare(kernel.CLONE_NEWNS)
    _lower_right()
    os.chdir("/")  # out of the original's folder, which the server insists on
    os.setsid()
    os.chdir(here)
    return {}


def _fork_copy() -> bool:
    """Fork; True in the original. The copy's parent is the original's, in the end."""
    try:
        return kernel.fork_beside(_id_address) > 0
    except OSError:  # not possible here, or there are threads
        pass
    # Python reseeds `random` in every child it forks: a copy shall draw the same numbers.
    state = sys.modules["random"].getstate() if "random" in sys.modules else None
    if os.fork():
        return True
    if os.fork():
        while True:  # the middle process; the server ends it
            time.sleep(1000)
    if state is not None:
        sys.modules["random"].setstate(state)
    return False


def _copy_session_or_why() -> dict[str, Any]:
    """`_copy_session`, or the original's answer that it may not; a failed copy just ends."""
    own = os.getpid()
    try:
        return _copy_session()
    except BaseException as error:  # noqa: BLE001 - goes to the host
        if os.getpid() != own:
            _exit(EXIT_SETUP)
        return {"id": 0, "error": f"{type(error).__name__}: {error}"}


def _answer(message: dict[str, Any]) -> None:
    for piece in wire.packets(message):
        _write(CONTROL, piece)


def rehearse(output_bytes: int, code: str = "print('', end='')\n0") -> None:
    """Go once through what a first call goes through, before there is a call."""
    namespace, stdin = _fresh_namespace(), Input(os.getcwd())  # noqa: PTH109
    answer = _run(0, code, stdin, namespace, output_bytes)
    for piece in wire.packets(answer):
        wire.Assembler().feed(piece)
    linecache.cache.clear()


def serve(output_bytes: int) -> NoReturn:
    """Answer calls until the host hangs up. Anything unexpected ends the process."""
    namespace = _fresh_namespace()
    assembler = wire.Assembler()
    stdin = Input(os.getcwd())  # noqa: PTH109
    try:
        while True:
            packet = _read(CONTROL, wire.CHUNK + 1)
            if not packet:
                _exit(0)
            if packet == wire.FORK:
                answer = _copy_session_or_why()
                _answer(answer) if answer else _write(CONTROL, wire.READY)
                continue
            if packet[:1] == wire.INPUT:
                stdin.take(packet[1:])
                continue
            message = assembler.feed(packet)
            if message is None:
                continue
            if "seed" in message:  # the host's first word
                seed_everything(message["seed"])
                _write(CONTROL, wire.READY)
                continue
            _answer(_run(message["id"], message["code"], stdin, namespace, output_bytes))
    except BaseException:  # noqa: BLE001 - a cell broke the runner
        pass
    _exit(EXIT_PROTOCOL)
