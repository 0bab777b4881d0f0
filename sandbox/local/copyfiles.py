"""The files of a copied session: its own tmpfs, and its open files reopened in it."""

# Paths here are plain strings: most go straight into system calls.
# ruff: noqa: PTH101, PTH102, PTH115, PTH116, PTH123, PTH208

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import struct
import termios
from dataclasses import dataclass, field

from . import kernel
from .notify import Asked

WORK = "/tmp"
# In a maps file: anonymous memory that is shared, and whatever is of the working folder.
_SHARED = re.compile(rb" ...s [^\n]* /dev/zero[^\n]*| /tmp/[^\n]*")


class ShortageError(OSError):
    """It is not for the program's doing that something cannot be copied."""


@dataclass
class Opened:
    """A file, folder or device that a process has open."""

    path: str
    flags: int
    position: int
    nameless: tuple[int, int] | None  # device and inode of a file that has no name any more


@dataclass
class Pipe:
    """One pipe: our handle on it, and which descriptors are which of its ends."""

    handle: int
    ends: dict[int, int] = field(default_factory=dict)  # descriptor -> its flags


@dataclass
class OpenFiles:
    """What a process has open, but for sockets."""

    own: int  # the folder of our own descriptors, which is out of sight in a session's mounts
    files: dict[int, Opened] = field(default_factory=dict)
    nameless: dict[tuple[int, int], int] = field(default_factory=dict)  # our handles on them
    pipes: dict[str, Pipe] = field(default_factory=dict)

    def close(self) -> None:
        """Let go of our handles."""
        for handle in (
            *(self.own, *self.nameless.values()),
            *(pipe.handle for pipe in self.pipes.values()),
        ):
            os.close(handle)

    def reopen(self, asked: Asked) -> None:
        """Replace each of the caller's descriptors by one on the same thing of its own.

        Nothing that two copies have open may be the same: an offset, a folder or a pipe in
        common is a way to change, or to tell, the other one.
        """
        copies: dict[tuple[int, int], int] = {}
        try:
            for key, handle in self.nameless.items():
                copies[key] = os.open(WORK, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
                _copy_data(handle, copies[key])
            for number, file in self.files.items():
                if file.nameless is None:
                    _reopen(asked, number, file, file.path, os.O_NOFOLLOW, None)
                else:
                    _reopen(asked, number, file, str(copies[file.nameless]), 0, self.own)
        finally:
            for handle in copies.values():
                os.close(handle)
        for pipe in self.pipes.values():
            _copy_pipe(asked, pipe)


def open_files(folder: str) -> OpenFiles:
    """What the process of a /proc folder has open.

    Raises:
        OSError: there is something that cannot be copied.
    """
    found = OpenFiles(os.open("/proc/self/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    try:
        for name in os.listdir(f"{folder}/fd"):
            path = os.readlink(f"{folder}/fd/{name}")
            if not path.startswith("socket:"):
                _look(found, f"{folder}/fd/{name}", path, f"{folder}/fdinfo/{name}")
    except BaseException:
        found.close()
        raise
    return found


def _look(found: OpenFiles, link: str, path: str, about: str) -> None:
    number, status = int(link.rpartition("/")[2]), os.stat(link)
    with open(about) as file:
        info = dict(line.split(":", 1) for line in file)
    flags, gone = int(info["flags"], 8), status.st_nlink == 0
    if path.startswith("pipe:"):
        if path not in found.pipes:
            found.pipes[path] = Pipe(os.open(link, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
        found.pipes[path].ends[number] = flags
    elif path.startswith("/") and (not gone or stat.S_ISREG(status.st_mode)):
        key = (status.st_dev, status.st_ino) if gone else None
        if key is not None and key not in found.nameless:
            found.nameless[key] = os.open(link, os.O_RDONLY | os.O_CLOEXEC)
        found.files[number] = Opened(path, flags, int(info["pos"]), key)
    else:
        raise OSError(errno.EOPNOTSUPP, f"descriptor {number}, {path}, cannot be copied")


def refuse_shared_memory(folder: str) -> None:
    """Memory that two copies would have in common is no copy.

    Raises:
        OSError: the process has such memory.
    """
    with open(f"{folder}/maps", "rb") as file:
        maps = file.read()
    if found := _SHARED.search(maps):
        path = os.fsdecode(b"/" + found[0].rpartition(b" /")[2])
        raise OSError(errno.EOPNOTSUPP, f"its memory would be shared: a mapping of {path}")


def _reopen(
    asked: Asked, number: int, opened: Opened, path: str, how: int, folder: int | None
) -> None:
    # O_PATH: the kernel injects no such descriptor, so it gets one to read from.
    flags = opened.flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_PATH)
    if folder is not None:  # what it is called there is a link of the kernel's
        flags &= ~(os.O_TMPFILE | os.O_NOFOLLOW)
    handle = os.open(path, flags | how | os.O_CLOEXEC, dir_fd=folder)
    try:
        if opened.position:
            os.lseek(handle, opened.position, os.SEEK_SET)
        asked.inject(handle, number)
    finally:
        os.close(handle)


def _copy_pipe(asked: Asked, pipe: Pipe) -> None:
    """A pipe of its own, with what waits in the other."""
    ends = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        size = struct.unpack("i", fcntl.ioctl(pipe.handle, termios.FIONREAD, bytes(4)))[0]
        if size and kernel.tee(pipe.handle, ends[1], size) != size:
            room = (fcntl.fcntl(end, fcntl.F_GETPIPE_SZ) for end in (ends[1], pipe.handle))
            if next(room) < next(room):  # the user's pipes have used up what the kernel gives
                raise ShortageError(errno.ENOBUFS, "no room for another pipe of its size")
            raise OSError(errno.EOPNOTSUPP, "a pipe holds more than a copy of it can")
        for number, flags in pipe.ends.items():
            end = ends[flags & os.O_ACCMODE == os.O_WRONLY]
            os.set_blocking(end, not flags & os.O_NONBLOCK)
            asked.inject(end, number)
    finally:
        for end in ends:
            os.close(end)


def _copy_data(source: int, target: int) -> None:
    """All of a file into an empty one; holes stay holes, which take no space."""
    size, end = os.fstat(source).st_size, 0
    while end < size:
        try:
            at = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # from here on it is a hole
        end = os.lseek(source, at, os.SEEK_HOLE)
        os.lseek(target, at, os.SEEK_SET)
        while at < end and (sent := os.sendfile(target, source, at, end - at)):
            at += sent
    os.ftruncate(target, size)


def copy_tree(source: int, target: str) -> None:
    """Regular files and folders only; a session can make nothing else."""
    with os.scandir(source) as entries:
        for entry in entries:
            into = f"{target}/{entry.name}"
            below = os.open(entry.name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=source)
            try:
                if entry.is_dir(follow_symlinks=False):
                    os.mkdir(into, 0o700)
                    copy_tree(below, into)
                elif entry.is_file(follow_symlinks=False):
                    made = os.open(into, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                    try:
                        _copy_data(below, made)
                    finally:
                        os.close(made)
                info = os.fstat(below)
                os.chmod(into, stat.S_IMODE(info.st_mode))
                os.utime(into, ns=(info.st_atime_ns, info.st_mtime_ns))
            finally:
                os.close(below)
