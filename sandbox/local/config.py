"""What a `LocalSandbox` was asked for, in one value that pickles."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import Any

from ..types import Limits

PRELOAD = (
    *("math", "cmath", "fractions", "decimal", "itertools", "functools", "collections", "re"),
    *("statistics", "random", "numpy", "sympy"),
)
MAX_READY = 16  # by default; each takes some 3 MB
LAYERS = ("user", "pid", "net", "fs", "uid", "landlock", "seccomp", "fork")


@dataclass(frozen=True)
class Config:
    """The arguments of `LocalSandbox`, by the same names; see there.

    Raises:
        ValueError: a layer that is none, no place to run in, or less than no spare session.
    """

    preload: tuple[str, ...] = PRELOAD
    limits: Limits = field(default_factory=Limits)
    require: tuple[str, ...] = ()
    max_running: int | None = None
    ready: int | None = None

    def __post_init__(self) -> None:
        for layer in self.require:
            if layer not in LAYERS:
                raise ValueError(f"unknown layer {layer!r}; layers are {', '.join(LAYERS)}")
        if self.max_running is not None and self.max_running < 1:
            raise ValueError(f"max_running must be at least 1 (or None), got {self.max_running}")
        if self.ready is not None and self.ready < 0:
            raise ValueError(f"ready must be at least 0 (or None), got {self.ready}")

    def for_server(self) -> dict[str, Any]:
        """What the server has to know."""
        spares = min(2 * len(os.sched_getaffinity(0)), MAX_READY)
        return {
            "preload": self.preload,
            "require": self.require,
            "site": sys.path,
            "ready": spares if self.ready is None else self.ready,
        }
