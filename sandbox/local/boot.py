"""Starting the fork server.

Started by exec in an empty environment, it holds nothing but the interpreter, the preloaded
libraries and this code; whatever it knows, sessions can read. Two processes: the launcher
makes the namespaces and watches the host, the server proper (pid 1 of its own process
namespace) preloads, then forks sessions. When either dies, the kernel ends every session.
"""

# Paths here are plain strings: most go straight into system calls.
# ruff: noqa: PTH123

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress
from typing import Any, NoReturn

from . import child, kernel, layout, wire
from .isolation import Walls
from .scratch import remove_tree
from .server import Server

REHEARSAL = {
    "numpy": "import numpy; numpy.linalg.det(numpy.eye(3) + 1); numpy.random.rand(3).mean()",
    "sympy": (
        "import sympy; x = sympy.Symbol('x'); sympy.factor(x**4 - 1); sympy.sympify('x**2 + 1')\n"
        "sympy.integrate(x**2 * sympy.sin(x), (x, 0, 1)); sympy.limit(sympy.sin(x) / x, x, 0)\n"
        "sympy.Matrix([[1, x], [2, 3]]).det(); sympy.latex(sympy.sqrt(x)); sympy.factorint(360)\n"
        "sympy.integrate(sympy.exp(-x) * x, (x, 0, sympy.oo)); sympy.solve(x**2 - x - 1, x)\n"
        "sympy.simplify(sympy.sin(x)**2 + sympy.cos(x)**2); str(sympy.Rational(1, 3) + x)"
    ),
}


def _preload(names: list[str]) -> list[str]:
    """Import and rehearse; the names that are not installed."""
    absent = []
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            absent.append(name)
            continue
        # Running a typical snippet once fills lazily made tables; clearing sympy's cache
        # afterwards keeps the tables and forgets the answers.
        exec(REHEARSAL.get(name, ""), {})
    if "sympy" in sys.modules:
        sys.modules["sympy"].core.cache.clear_cache()
    return absent


def _virtual_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def main(text: str) -> NoReturn:
    """Entry point of the exec'd process; `text` is the number of the host's socket.

    The configuration comes through it: paths and process ids of the host are nothing for
    sessions to see, and an argument can be read as long as the process lives.
    """
    control = socket.socket(fileno=int(text))
    config = wire.parse(control.recv(1 << 20))
    sys.argv[:], sys.orig_argv[:] = [""], [""]
    walls = Walls(layout.plan(config["preload"], config["site"]))
    try:
        host = os.pidfd_open(config["host"])
        walls.raise_launcher()
        server = os.fork()
    except BaseException:  # noqa: BLE001 - the host raises it as SandboxError
        _send(control, error=traceback.format_exc())
        os._exit(1)
    if server:
        control.close()
        _watch(host, server)
        remove_tree(config["scratch"], wait_s=2.0)
        os._exit(0)
    kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    os.close(host)
    _serve(control, walls, config)


def _watch(host: int, server: int) -> None:
    """The launcher's life: until the host or the server ends, whichever goes first.

    A process descriptor, because PDEATHSIG would fire when the host's starting *thread* ends.
    """
    poller = select.poll()
    poller.register(host, select.POLLIN)
    poller.register(os.pidfd_open(server), select.POLLIN)
    poller.poll()
    os.kill(server, signal.SIGKILL)


def _serve(control: socket.socket, walls: Walls, config: dict[str, Any]) -> NoReturn:
    try:
        walls.raise_server(config["scratch"])
        refused = [layer for layer in config["require"] if layer in walls.missing]
        if refused:
            why = "; ".join(f"{layer}: {walls.missing[layer]}" for layer in refused)
            raise RuntimeError(f"required layers are missing here ({why})")
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        os.environ.clear()
        sys.path[:] = config["site"] if "fs" in walls.missing else walls.layout.path
        child.prepare_streams()
        absent = _preload(config["preload"])
        walls.baseline = _virtual_bytes()
        gc.collect()
        gc.freeze()
        gc.disable()
        _send(control, ready=True, missing=walls.missing, absent=absent)
        config.clear()  # sessions can read the frames that they were forked in
        Server(control, walls).run()
    except BaseException:  # noqa: BLE001 - the host raises it as SandboxError
        _send(control, error=traceback.format_exc())
    os._exit(0)


def _send(control: socket.socket, **fields: Any) -> None:
    if "error" in fields:
        fields["error"] = fields["error"][-8000:]
    with suppress(BrokenPipeError):  # the host has gone already
        control.send(json.dumps(fields).encode())
