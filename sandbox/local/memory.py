"""The server's own memory, made cheap to fork.

A fork copies one page-table entry for each 4 KiB page of anonymous memory; a huge page has one
for 2 MiB. A session that writes to a huge page gets a copy of the 4 KiB that it wrote, as
before. Nothing is advised for the future (MADV_HUGEPAGE): a session's first touch of 4 KiB
would then take 2 MiB.
"""

# Paths here are plain strings: most go straight into system calls.
# ruff: noqa: PTH123

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator

from . import kernel

HUGE = 2 << 20
_MADV_COLLAPSE = 25  # Linux 6.1


def settle() -> None:
    """Before the first fork: no garbage left, none collected later, memory in huge pages.

    Where the kernel has no huge pages, or none free, nothing changes.
    """
    gc.collect()
    gc.freeze()
    gc.disable()

    for page in _own_pages():
        kernel.libc.madvise(ctypes.c_void_p(page), ctypes.c_size_t(HUGE), _MADV_COLLAPSE)


def _own_pages() -> Iterator[int]:
    """Addresses of 2 MiB of heap or arenas that one huge page can hold."""
    try:
        with open("/proc/self/maps") as file:
            lines = [line.split() for line in file]
    except OSError:  # no proc here
        return
    for bounds, rights, _, _, _, *name in lines:
        start, end = (int(bound, 16) for bound in bounds.split("-"))
        start, end = -(-start // HUGE) * HUGE, end // HUGE * HUGE
        if rights == "rw-p" and name in ([], ["[heap]"]):
            yield from range(start, end, HUGE)
