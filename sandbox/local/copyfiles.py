"""The files of a copied session: its own tmpfs, and its open files reopened in it."""

# Paths here are plain strings: most go straight into system calls.
# ruff: noqa: PTH101, PTH102, PTH115, PTH116, PTH123, PTH208

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import dataclass

from .notify import Asked

WORK = "/tmp"


@dataclass
class Opened:
    """A regular file under `WORK` that a process has open."""

    path: str
    flags: int
    position: int
    deleted: int  # our handle on it where it has no name any more, else -1


def open_files(folder: str) -> dict[int, Opened]:
    """What a process has open under `WORK`, by its descriptor."""
    found = {}
    for name in os.listdir(f"{folder}/fd"):
        link = f"{folder}/fd/{name}"
        path = os.readlink(link)
        if not path.startswith(f"{WORK}/") or not stat.S_ISREG(os.stat(link).st_mode):
            continue
        with open(f"{folder}/fdinfo/{name}") as file:
            info = dict(line.split(":", 1) for line in file)
        deleted = os.open(link, os.O_RDONLY) if path.endswith(" (deleted)") else -1
        found[int(name)] = Opened(path, int(info["flags"], 8), int(info["pos"]), deleted)
    return found


def reopen(asked: Asked, number: int, opened: Opened) -> None:
    """Replace a descriptor of the caller by the same file of its own tmpfs."""
    if opened.deleted < 0:
        flags = opened.flags & ~(os.O_CREAT | os.O_EXCL | os.O_TRUNC)
        handle = os.open(opened.path, flags | os.O_NOFOLLOW | os.O_CLOEXEC)
    else:
        handle = os.open(WORK, os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        if opened.deleted >= 0:
            _copy_data(opened.deleted, handle)
        os.lseek(handle, opened.position, os.SEEK_SET)
        asked.inject(handle, number)
    finally:
        os.close(handle)


def _copy_data(source: int, target: int) -> None:
    with open(source, "rb", closefd=False) as data, open(target, "wb", closefd=False) as file:
        shutil.copyfileobj(data, file)


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
