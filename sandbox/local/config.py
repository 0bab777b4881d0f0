"""What a `LocalSandbox` was asked for, in one value that pickles."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import Any

from ..types import Limits
from .profiles import profile

PRELOAD = (
    *("math", "cmath", "fractions", "decimal", "itertools", "functools", "collections", "re"),
    *("statistics", "random", "numpy", "sympy"),
)
MAX_READY = 16  # by default; each takes some 3 MB
LEAST_MEMORY = 128 << 20  # the server with numpy and sympy takes some 90 MB
LAYERS = ("user", "pid", "net", "fs", "uid", "landlock", "seccomp", "fork", "cgroup")


@dataclass(frozen=True)
class Config:
    """The arguments of `LocalSandbox`, by the same names; see there.

    Raises:
        ValueError: a layer, profile or system call that is none or not for sessions, or a number
            that is too small.
    """

    preload: tuple[str, ...] = PRELOAD
    limits: Limits = field(default_factory=Limits)
    require: tuple[str, ...] = ()
    max_running: int | None = None
    ready: int | None = None
    total_memory_bytes: int | None = None
    profile: str = "compute"
    extra_calls: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for layer in self.require:
            if layer not in LAYERS:
                raise ValueError(f"unknown layer {layer!r}; layers are {', '.join(LAYERS)}")
        for name, least in (("max_running", 1), ("ready", 0), ("total_memory_bytes", LEAST_MEMORY)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least} (or None), got {value}")

        profile(self.profile, self.extra_calls)

    def for_server(self) -> dict[str, Any]:
        """What the server has to know."""
        spares = min(2 * len(os.sched_getaffinity(0)), MAX_READY)
        return {
            "preload": self.preload,
            "require": self.require,
            "site": sys.path,
            "ready": spares if self.ready is None else self.ready,
            "total_memory_bytes": self.total_memory_bytes,
            "profile": self.profile,
            "extra_calls": self.extra_calls,
        }
