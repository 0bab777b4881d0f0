"""Removing what a session left on the host's disk, where it had no file system of its own.

Not `shutil.rmtree`: a program can nest folders deeper than Python recurses and than a path may
be long, and take the right to list them from everybody.
"""

# Paths here are plain strings: most go straight into system calls.
# ruff: noqa: PTH106

from __future__ import annotations

import os
import time
from contextlib import suppress

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(path: str, wait_s: float = 0.0) -> None:
    """Remove a folder of our own with all that is in it. Never raises: what resists stays.

    Tries again for `wait_s` seconds, where processes that were killed may not be dead yet.
    """
    until = time.monotonic() + wait_s
    while True:
        try:
            _empty(os.open(path, _FOLDER))
            os.rmdir(path)
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() >= until:
                return
            time.sleep(0.01)
        else:
            return


def _empty(here: int) -> None:
    """Walk down and up, holding one descriptor at a time: `here`, which is closed."""
    left = [_unlink_files(here)]  # folders yet to visit, for each level
    names: list[str] = []
    try:
        while names or left[-1]:
            if left[-1]:
                name = left[-1].pop()
                with suppress(OSError):
                    os.chmod(name, 0o700, dir_fd=here)
                    here = _step(here, name)
                    names.append(name)
                    left.append(_unlink_files(here))
            else:
                left.pop()
                here = _step(here, "..")
                with suppress(OSError):
                    os.rmdir(names.pop(), dir_fd=here)
    finally:
        os.close(here)


def _step(here: int, name: str) -> int:
    there = os.open(name, _FOLDER, dir_fd=here)
    os.close(here)
    return there


def _unlink_files(folder: int) -> list[str]:
    """Remove all but folders, whose names are returned."""
    folders = []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
                continue
            with suppress(OSError):
                os.unlink(entry.name, dir_fd=folder)
    return folders
