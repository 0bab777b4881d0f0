"""What this machine has beside the sandbox's own walls: Landlock, bubblewrap, Docker, gVisor."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .probes import Found
from .report import Result

_LANDLOCK = """
import importlib, sys, types
package = types.ModuleType("walls")
package.__path__ = [sys.argv[1]]
sys.modules["walls"] = package
landlock = importlib.import_module("walls.landlock")
kernel = importlib.import_module("walls.kernel")
print(landlock.version())
kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
landlock.restrict([], sys.argv[2])
try:
    open("/etc/passwd").close()
    print("read")
except OSError as error:
    print(error.strerror)
"""


def landlock() -> Found:
    """A process confines itself by Landlock and tries to read a file."""
    local = Path(__file__).parents[1] / "local"
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", _LANDLOCK, str(local), str(local)],
        capture_output=True,
        text=True,
    )
    version, _, answer = done.stdout.strip().partition("\n")
    if version in ("", "0"):
        return Result.ABSENT, "the kernel does not have it, or not switched on"
    if not answer or answer == "read":
        return Result.BROKEN, f"ABI {version}, but /etc/passwd was read {done.stderr[-200:]}"
    return Result.HOLDS, f"ABI {version}; a process that confined itself: {answer}"


def bubblewrap() -> Found:
    """Whether the program `bwrap` is here and starts something."""
    program = shutil.which("bwrap")
    if program is None:
        return Result.ABSENT, "no program bwrap on the PATH"
    command = [program, "--unshare-all", "--ro-bind", "/", "/", "true"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": os.defpath})
    if done.returncode:
        return Result.BROKEN, done.stderr.strip()[-200:] or f"exit code {done.returncode}"
    return Result.HOLDS, f"{program} started a program in namespaces of its own"


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=5.0)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask_docker(what: str) -> Any:
    """An answer of the Docker daemon; OSError or ValueError where it gives none."""
    where = urlsplit(os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock")
    connection: http.client.HTTPConnection
    if where.scheme == "unix":
        connection = _UnixConnection(where.path)
    elif where.scheme == "tcp" and where.hostname:
        connection = http.client.HTTPConnection(where.hostname, where.port or 2375, timeout=5.0)
    else:
        raise ValueError(f"DOCKER_HOST {where.geturl()!r} is neither unix:// nor tcp://")
    try:
        connection.request("GET", what)
        answer = connection.getresponse()
        if answer.status != 200:
            raise ValueError(f"the daemon answered {answer.status} {answer.reason}")
        return json.load(answer)
    except http.client.HTTPException as error:
        raise ValueError(f"no HTTP was spoken: {error}") from error
    finally:
        connection.close()


def docker() -> Found:
    """Whether a Docker daemon answers."""
    try:
        info = ask_docker("/info")
    except (OSError, ValueError) as error:
        return Result.ABSENT, f"no daemon answers: {error}"
    return Result.HOLDS, f"Docker {info.get('ServerVersion', '?')} answers"


def runsc() -> Found:
    """Whether the Docker daemon knows gVisor's runtime."""
    try:
        runtimes = ask_docker("/info").get("Runtimes") or {}
    except (OSError, ValueError):
        found = shutil.which("runsc")
        return Result.ABSENT, f"no Docker daemon answers; {found or 'and no program runsc'}"
    if "runsc" in runtimes:
        return Result.HOLDS, "the Docker daemon has a runtime runsc"
    return Result.ABSENT, f"the daemon's runtimes are {', '.join(sorted(runtimes)) or 'none'}"
