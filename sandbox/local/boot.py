"""Starting the fork server.

Started by exec in an empty environment, it holds nothing but the interpreter, the preloaded
libraries and this code; whatever it knows, sessions can read. Three processes: the keeper
watches the host and cleans up; the zygote (pid 1 of its own process namespace) preloads, then
forks sessions; the server, forked before the preload, takes the host's commands and sees to the
sessions. When one of them dies, the kernel ends the others and every session.
"""

# Paths here are plain strings: most go straight into system calls.
# ruff: noqa: PTH120, PTH123

from __future__ import annotations

import json
import os
import resource
import signal
import socket
import sys
import tempfile
import traceback
from contextlib import suppress
from typing import Any, NoReturn

from . import cgroup, child, kernel, layout, memory, privateroot, profiles, wire
from .isolation import Walls
from .keeper import Leash
from .link import Link, ZygoteGone
from .lockin import ENVIRONMENT, WORK, LockIn
from .rehearsal import preload
from .server import Server
from .zygote import Zygote

_HOME_BYTES, _HOME_FILES = 16 << 20, 1024


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
    profile = profiles.profile(config["profile"], config["extra_calls"])
    plan = layout.plan(config["preload"], config["site"], interpreter=profile.processes)
    walls = Walls(plan, profile)
    try:
        host, leash = kernel.pidfd_open(config["host"]), Leash()
        cgroup.sweep()
        launcher = os.fork()
        if launcher:
            control.close()
            leash.keep(host, launcher, config["scratch"], config["group"])
        if host >= 0:
            os.close(host)
        leash.in_launcher()
        kills = _join_group(walls, config)
        walls.raise_launcher()
        zygote = os.fork()
        if zygote:
            leash.report(zygote)
        leash.in_zygote()
    except BaseException:  # noqa: BLE001 - the host raises it as SandboxError
        _send(control, error=traceback.format_exc())
        os._exit(1)
    _serve(control, walls, config, kills)


def _join_group(walls: Walls, config: dict[str, Any]) -> cgroup.Kills:
    """Into a control group, together with everything that will be forked."""
    try:
        memory = config["total_memory_bytes"] or cgroup.default_memory()
        limits = {"memory": memory, "pids": cgroup.default_tasks()}
        return cgroup.Kills(cgroup.join(config["group"], limits))
    except OSError as error:
        walls.missing["cgroup"] = str(error)
        return cgroup.Kills(-1)


def _serve(
    control: socket.socket, walls: Walls, config: dict[str, Any], kills: cgroup.Kills
) -> NoReturn:
    """Raise the walls, fork the server off, load the libraries, and be the zygote."""
    try:
        walls.raise_server(config["scratch"])
        refused = [layer for layer in config["require"] if layer in walls.missing]
        if refused:
            why = "; ".join(f"{layer}: {walls.missing[layer]}" for layer in refused)
            raise RuntimeError(f"required layers are missing here ({why})")
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
        os.environ.clear()
        links = _fork_server(control, walls, kills, config["ready"])
        kills.close()
        sys.path[:] = config["site"] if "fs" in walls.missing else walls.layout.path
        child.prepare_streams()
        signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the host ignores
        absent = _preload(walls, config["preload"])
        if walls.profile.processes:
            _let_programs_find_python()
        memory.settle()
        lock_in = LockIn(walls, _virtual_bytes())
        if "fs" not in walls.missing:
            privateroot.part_with_proc()
        _send(control, ready=True, missing=walls.missing, absent=absent)
        control.close()
        config.clear()  # sessions can read the frames that they were forked in
        Zygote(lock_in, *links).run()
    except BaseException:  # noqa: BLE001 - the host raises it as SandboxError
        _send(control, error=traceback.format_exc())
    os._exit(0)


def _preload(walls: Walls, names: list[str]) -> list[str]:
    """Import what sessions will import; the names that are not installed.

    With a home to write to, which packages such as matplotlib want for their caches. Every
    session hides it behind a working folder of its own.
    """
    if not walls.scratch:
        privateroot.fresh_work_folder(WORK, _HOME_BYTES, _HOME_FILES)
    os.environ["HOME"] = tempfile.tempdir = walls.scratch or WORK
    absent = preload(names)
    _rehearse_failure()
    tempfile.tempdir = None
    del os.environ["HOME"]
    return absent


def _rehearse_failure() -> None:
    """Once for all sessions: a traceback touches many pages, which few of them need."""
    shown, unread = os.dup(2), os.pipe()  # gVisor has no null device to write to here
    os.dup2(unread[1], 2)
    child.rehearse(0, "1 / 0")
    os.dup2(shown, 2)
    for descriptor in (shown, *unread):
        os.close(descriptor)


def _let_programs_find_python() -> None:
    """For programs that run other ones: the interpreter, and where it finds the packages."""
    sys.executable = layout.interpreter()
    folder = os.path.dirname(sys.executable)
    os.environ.update(ENVIRONMENT, PATH=folder, PYTHONPATH=layout.SITE)


def _fork_server(
    control: socket.socket, walls: Walls, kills: cgroup.Kills, ready: int
) -> list[socket.socket]:
    """Start the server, still small; the zygote's ends of their sockets."""
    link, far_ends = Link.pair()
    if os.fork():
        link.close()
        return far_ends
    try:
        kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who removes files for it is not awaited
        for far in far_ends:
            far.close()
        if "fs" not in walls.missing:
            kernel.unshare(kernel.CLONE_NEWNS)  # it keeps the proc that the zygote parts with
        Server(control, walls, link, kills, ready).run()
    except ZygoteGone:
        pass
    except BaseException:  # noqa: BLE001 - shown where the host's own errors are
        os.write(2, traceback.format_exc().encode())
    os._exit(0)


def _send(control: socket.socket, **fields: Any) -> None:
    if "error" in fields:
        fields["error"] = fields["error"][-8000:]
    with suppress(OSError):  # the host has gone already
        control.send(json.dumps(fields).encode())
