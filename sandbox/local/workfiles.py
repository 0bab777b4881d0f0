"""The server's part in moving files: it opens what lies in a session's working folder.

The host gets a descriptor or an error number, over a socket of that one request, which the
session never sees. A path is walked part by part from the folder, with no link followed and
no '..' taken, so that nothing outside can be reached, whatever the program renames meanwhile.
Nothing here waits for the session.
"""

# Paths here are plain strings: most go straight into system calls.
# ruff: noqa: PTH121

from __future__ import annotations

import errno
import json
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

MAX_DEPTH = 64
MAX_LISTED, MAX_LIST_BYTES = 20_000, 1 << 20  # entries looked at, bytes of names sent
_STEP = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


def answer(message: dict[str, Any], pid: int, scratch: str, reply: socket.socket) -> None:
    """Carry out one request on the files of the session `pid` and send what comes of it.

    `message` has `do`, one of "read", "write" and "list", for the first two the `parts` of the
    path, and for a write the `size` of what is to be written. A read or a write is answered with
    a descriptor on the file, a list with one on the names, each ended by a NUL; a failure with
    `errno` and `why`.
    """
    try:
        root = os.open(working_folder(pid, scratch), _STEP)
    except OSError as error:  # the process is dead
        refuse(reply, errno.ESRCH, str(error))
        return
    try:
        handle = _list(root) if message["do"] == "list" else _open(root, message)
    except OSError as error:
        refuse(reply, error.errno or errno.EIO, error.strerror or str(error))
        return
    finally:
        os.close(root)
    with reply, suppress(OSError):
        socket.send_fds(reply, [b"{}"], [handle], socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
    os.close(handle)


def working_folder(pid: int, scratch: str) -> str:
    """Where a session's files are seen from here; `scratch` where there is no private root.

    Raises:
        ProcessLookupError: the process is dead.
    """
    if scratch:
        return f"{scratch}/{pid}"
    try:
        if os.path.samefile(f"/proc/{pid}/ns/mnt", "/proc/self/ns/mnt"):
            raise ProcessLookupError(errno.ESRCH, "the session has no folder of its own")
    except OSError as error:
        raise ProcessLookupError(errno.ESRCH, str(error)) from error
    return f"/proc/{pid}/root/tmp"


def refuse(reply: socket.socket, number: int, why: str) -> None:
    """Answer with an error."""
    data = json.dumps({"errno": number, "why": why[:1000]}).encode()
    with reply, suppress(OSError):
        reply.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def _open(root: int, message: dict[str, Any]) -> int:
    *folders, name = parts = message["parts"]
    if len(parts) > MAX_DEPTH or any(part in ("", ".", "..") or "/" in part for part in parts):
        raise OSError(errno.EINVAL, "not a plain relative path")
    write = message["do"] == "write"
    here = os.dup(root)
    try:
        for part in folders:
            if write:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=here)
            below = os.open(part, _STEP, dir_fd=here)
            os.close(here)
            here = below
        handle = (
            _made(name, here, message.get("size", 0)) if write else _opened(name, here, os.O_RDONLY)
        )
    finally:
        os.close(here)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EISDIR, "not a regular file")
    return handle


def _opened(name: str, folder: int, how: int) -> int:
    return os.open(name, how | _FILE, 0o600, dir_fd=folder)


def _made(name: str, folder: int, size: int) -> int:
    """A file to write to; where there is none yet, one is made if there is room for its content."""
    try:
        return _opened(name, folder, os.O_WRONLY)
    except FileNotFoundError:
        room = os.fstatvfs(folder)
        if -(-size // room.f_frsize) > room.f_bavail:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None
        return _opened(name, folder, os.O_WRONLY | os.O_CREAT)


def _list(root: int) -> int:
    top = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root)
    names = bytearray()
    try:
        for seen, path in enumerate(_walk(top, "", MAX_DEPTH)):
            names += os.fsencode(path) + b"\0" if path else b""
            if seen >= MAX_LISTED or len(names) > MAX_LIST_BYTES:
                raise OSError(errno.EOVERFLOW, "too many files to list")
    finally:
        os.close(top)
    handle = os.memfd_create("list")
    os.write(handle, names)
    os.lseek(handle, 0, os.SEEK_SET)
    return handle


def _walk(folder: int, prefix: str, depth: int) -> Iterator[str]:
    """Regular files below; an empty text for whatever else is there, to be counted."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                yield prefix + entry.name
                continue
            yield ""
            if depth == 1 or not entry.is_dir(follow_symlinks=False):
                continue
            try:
                below = os.open(entry.name, os.O_RDONLY | _STEP & ~os.O_PATH, dir_fd=folder)
            except OSError:  # gone, or closed to us too
                continue
            try:
                yield from _walk(below, f"{prefix}{entry.name}/", depth - 1)
            finally:
                os.close(below)
