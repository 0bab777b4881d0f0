"""The zygote's own memory, made cheap to fork.

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
import sys
from collections.abc import Iterator

from . import kernel

HUGE = 2 << 20
_MADV_COLLAPSE = 25  # Linux 6.1
_POOL, _POOL_HEADER, _LARGEST = 16 << 10, 48, 512  # of Python's allocator, in bytes
_MOST = 256 << 10  # bytes of one size that gaps are expected to take at most; a tenth is usual
_filling: list[object] = []


def settle() -> None:
    """Before the first fork: no garbage left, none collected later, no gaps, all in huge pages.

    Where the kernel has no huge pages, or none free, nothing changes in that respect.
    """
    gc.collect()
    _forget_lookups()
    _fill_gaps()
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


def _forget_lookups() -> None:
    """Empty the cache of attributes of types.

    A session's own lookups would drive out those of the rehearsal, and each touches the name it
    drives out, somewhere in the memory of a library.
    """
    newer = getattr(sys, "_clear_internal_caches", None)  # Python 3.13
    (newer or sys._clear_type_cache)()


def _fill_gaps() -> None:
    """Put something into every free place of the pools in use, for good.

    What a session makes then lies side by side in new pages. In the gaps it would be all over
    our memory: a page for the kernel to copy here and there, out of a huge page to be split.
    A pool without a gap is new: its places follow each other.
    """
    for size in range(16, _LARGEST + 1, 16):
        row, last = 0, 0
        for _ in range(_MOST // size):
            new = _object_of(size)
            row = row + 1 if id(new) == last + size else 1
            last = id(new)
            _filling.append(new)
            if row == (_POOL - _POOL_HEADER) // size:
                break


def _object_of(size: int) -> object:
    """A new object of that many bytes, none of which Python keeps for another use."""
    if size == sys.getsizeof(object()):
        return object()
    if size == sys.getsizeof(0j):
        return complex(size)
    return bytes(max(0, size - sys.getsizeof(b"")))
