"""Keeping two thread pools from slowing each other down.

Every thread that runs parallel torch code has an OpenMP pool of its own. As soon as the pools
together have more threads than the machine has cores, GNU OpenMP stops spinning between
parallel sections and sleeps instead, idle pools included. A decode step has over a hundred
short sections, so the worker then runs 1.5 to 2 times slower, and so does a trainer beside an
idle worker. Therefore each gives its pool back before the other one starts.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

_PAUSE_SOFT = 1  # omp_pause_soft: threads go, settings stay


@cache
def _pause() -> Callable[[], object] | None:
    """OpenMP 5.0's `omp_pause_resource` for this host, if the loaded runtime has it."""
    try:
        runtime = ctypes.CDLL(None)
        host = runtime.omp_get_initial_device()
        pause = runtime.omp_pause_resource
    except (AttributeError, OSError):
        return None
    return lambda: pause(_PAUSE_SOFT, host)


def release_threads() -> None:
    """Give back the OpenMP threads of the calling thread; it gets new ones when it needs them."""
    pause = _pause()
    if pause is not None:
        pause()
