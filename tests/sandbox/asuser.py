"""Run a command in namespaces of its own, as an ordinary user if asked, where paths stay.

    python asuser.py [--user UID] [--show PATH]... [--fresh PATH]... [--no-network] -- COMMAND...

With --user, as root: an interpreter that lies where only root can look (below /root, say) is
made visible at the same place, in a mount namespace that nobody else sees. Without root a user
namespace stands in for it. Processes that COMMAND leaves behind end with it, and signals to
everyone reach nobody else. A --fresh folder is empty, and nobody else's. Exits with 75 where
the kernel gives no namespaces.
"""

from __future__ import annotations

import argparse
import ctypes
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

NO_NAMESPACES = 75
_LIBC = ctypes.CDLL(None, use_errno=True)
_NEWNS, _NEWIPC, _NEWUSER = 0x00020000, 0x08000000, 0x10000000
_NEWPID, _NEWNET = 0x20000000, 0x40000000
_BIND, _PRIVATE = 4096 | 16384, 16384 | (1 << 18)


def _check(code: int, what: str) -> None:
    if code < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    words = [word.encode() for word in (source, target, kind)]
    code = _LIBC.mount(*words, ctypes.c_ulong(flags), options.encode() or None)
    _check(code, f"mount on {target}")


def _unshare(flags: int) -> None:
    uid, gid = os.geteuid(), os.getegid()
    if uid:
        flags |= _NEWUSER
    _check(_LIBC.unshare(flags), "unshare")
    if uid:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{uid} {uid} 1")
        Path("/proc/self/gid_map").write_text(f"{gid} {gid} 1")


def _closed(path: Path) -> Path | None:
    """The first folder on the way to `path` that not everyone may enter."""
    above = [*reversed(path.parents)]
    return next((p for p in above if p.is_dir() and not p.stat().st_mode & 0o001), None)


def show(paths: Sequence[str]) -> None:
    """Make paths visible to everyone, at their place, in this mount namespace."""
    wanted: dict[Path, set[Path]] = {}
    for path in {Path(name).resolve() for name in paths} | {Path(name) for name in paths}:
        closed = _closed(path)
        if closed is not None:
            wanted.setdefault(closed, set()).add(path.resolve())
    for closed, below in wanted.items():
        opened = {path: os.open(path, os.O_PATH) for path in sorted(below)}
        links = [(p, p.readlink()) for p in map(Path, paths) if p.is_symlink()]
        _mount("tmpfs", str(closed), "tmpfs", 0, "mode=755,size=1m")
        for path, handle in opened.items():
            if not path.exists():
                path.mkdir(parents=True)
                _mount(f"/proc/self/fd/{handle}", str(path), "", _BIND)
            os.close(handle)
        for link, target in links:
            if not os.path.lexists(link):
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(target)


def _loopback_up() -> None:
    import fcntl
    import struct

    with socket.socket() as any_socket:
        request = struct.pack("16sH14x", b"lo", 0x49)  # up, running, loopback
        fcntl.ioctl(any_socket, 0x8914, request)


def _renew(folder: str) -> None:
    """An empty folder in its place, but for the interpreter and this checkout if they lie there."""
    needed = {Path(sys.prefix), Path(sys.base_prefix), Path(__file__).resolve().parents[2]}
    kept = {p: os.open(p, os.O_PATH) for p in sorted(needed) if p.is_relative_to(folder)}
    _mount("tmpfs", folder, "tmpfs", 0, "mode=1777,size=512m")
    for path, handle in kept.items():
        if not path.exists():
            path.mkdir(parents=True)
            _mount(f"/proc/self/fd/{handle}", str(path), "", _BIND)
        os.close(handle)


def isolate(
    user: int, *, shown: Sequence[str] = (), fresh: Sequence[str] = (), network: bool = True
) -> None:
    """Return in a process that is `user` in namespaces of its own; this one waits and exits as it.

    Raises:
        OSError: the kernel gives no namespaces; then nothing was done.
    """
    _unshare(_NEWNS | _NEWPID | _NEWIPC | (0 if network else _NEWNET))
    _mount("none", "/", "", _PRIVATE)
    if not network:
        _loopback_up()
    child = os.fork()
    if child:
        os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) % 256)
    _LIBC.prctl(1, signal.SIGKILL)
    _mount("proc", "/proc", "proc", 0)
    show(shown)
    for folder in fresh:
        _renew(folder)
    if user != os.geteuid():
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        _LIBC.prctl(1, signal.SIGKILL)
        _LIBC.prctl(4, 1)
    # pid 1 reaps whatever is left to it and gets no signal from those inside.
    worker = os.fork()
    while worker:
        ended, status = os.wait()
        if ended == worker:
            os._exit(os.waitstatus_to_exitcode(status) % 256)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--user", type=int, default=os.geteuid())
    parser.add_argument("--show", action="append", default=[])
    parser.add_argument("--fresh", action="append", default=[])
    parser.add_argument("--no-network", action="store_true")
    parser.add_argument("command", nargs="+")
    options = parser.parse_args()
    try:
        isolate(
            options.user,
            shown=options.show,
            fresh=options.fresh,
            network=not options.no_network,
        )
    except OSError as error:
        print(f"no namespaces here: {error}", file=sys.stderr)
        sys.exit(NO_NAMESPACES)
    os.execvp(options.command[0], options.command)


if __name__ == "__main__":
    main()
