"""Landlock, for where no private root can be had: a process gives up files for good.

Three system calls (Linux 5.13 and later), here for two kinds of rule: read-only trees, and one
tree to work in. Later kernels add TCP, signals and abstract sockets, all given up where known.
"""

# Paths here are plain strings: most go straight into system calls.
# ruff: noqa: PTH112

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

from .kernel import check, syscall

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 1, 1 << 2, 1 << 3
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
    known = version()
    files = max(rights for since, rights in _FILE_RIGHTS.items() if since <= known)
    ruleset = _Ruleset(files, 3 if known >= 4 else 0, 3 if known >= 6 else 0)
    size = 8 if known < 4 else 16 if known < 6 else 24
    handle = check(syscall(_CREATE, ctypes.byref(ruleset), ctypes.c_size_t(size), 0), "landlock")
    for path in readable:
        allowed = _READ_FILE
        if os.path.isdir(path):
            allowed |= _READ_DIR
        elif path.startswith("/dev/"):
            allowed |= _WRITE_FILE
        _add(handle, path, allowed & files)
    _add(handle, writable, files & ~1)  # all but to execute
    check(syscall(_RESTRICT, handle, 0), "landlock_restrict_self")
    os.close(handle)


def _add(ruleset: int, path: str, allowed: int) -> None:
    parent = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = _Beneath(allowed, parent)
        check(syscall(_ADD, ruleset, 1, ctypes.byref(rule), 0), f"landlock {path}")
    finally:
        os.close(parent)
