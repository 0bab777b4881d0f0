"""Landlock: a process gives up rights for good.

Three system calls (Linux 5.13 and later). Where no private root can be had, `restrict` leaves
read-only trees and one tree to work in. In a private root `narrow` and `enter` take away, a
second time, what the filter refuses and mounts do not: to run programs, to make devices, pipes,
sockets and links. TCP, signals and abstract sockets are given up in both, where they are known.
"""

# Paths here are plain strings: most go straight into system calls.
# ruff: noqa: PTH112

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

from .kernel import check, syscall

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
# To make devices, sockets, named pipes and symbolic links; to use a device beyond reading it.
_ODD_FILES = 1 << 6 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12 | 1 << 15
_REFER = 1 << 13  # to move files between folders; forbidden where a version does not know it
RENAMES = 2  # the version that does
# Rights handled by each version of the interface: files, TCP ports, scopes.
_FILE_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: (1 << 16) - 1}


class _Ruleset(ctypes.Structure):
    _fields_ = [(f, ctypes.c_uint64) for f in ("files", "network", "scoped")]


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


def version() -> int:
    """The kernel's Landlock version, 0 where there is none."""
    return max(0, int(syscall(_CREATE, None, ctypes.c_size_t(0), 1)))


def restrict(readable: Iterable[str], writable: str) -> None:
    """Keep this process to reading `readable` and working in `writable`.

    Needs `no_new_privs`. Raises OSError where the kernel refuses.
    """
    handle, files = _ruleset(-1)
    for path in readable:
        allowed = _READ_FILE
        if os.path.isdir(path):
            allowed |= _READ_DIR
        elif path.startswith("/dev/"):
            allowed |= _WRITE_FILE
        _add(handle, path, allowed & files)
    _add(handle, writable, files & ~_EXECUTE)
    enter(handle)


def narrow(*, execute: bool) -> int:
    """A ruleset for a private root, for `enter`: whoever may `execute` keeps that right.

    Raises OSError where the kernel refuses.
    """
    handle, files = _ruleset(_ODD_FILES | _REFER | (0 if execute else _EXECUTE))
    _add(handle, "/", files & _REFER)
    return handle


def enter(ruleset: int) -> None:
    """Keep this process to a ruleset, and close it. Needs `no_new_privs`. Raises OSError."""
    check(syscall(_RESTRICT, ruleset, 0), "landlock_restrict_self")
    os.close(ruleset)


def _ruleset(wanted: int) -> tuple[int, int]:
    """A ruleset about these rights to files, as far as known, and about all that is no file."""
    known = version()
    files = wanted & max(rights for since, rights in _FILE_RIGHTS.items() if since <= known)
    ruleset = _Ruleset(files, 3 if known >= 4 else 0, 3 if known >= 6 else 0)
    size = ctypes.c_size_t(8 if known < 4 else 16 if known < 6 else 24)
    return check(syscall(_CREATE, ctypes.byref(ruleset), size, 0), "landlock"), files


def _add(ruleset: int, path: str, allowed: int) -> None:
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = _Beneath(allowed, parent)
        check(syscall(_ADD, ruleset, 1, ctypes.byref(rule), 0), f"landlock {path}")
    finally:
        os.close(parent)
