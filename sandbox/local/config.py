"""What a `LocalSandbox` was asked for, in one value that pickles."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..types import Limits

PRELOAD = (
    *("math", "cmath", "fractions", "decimal", "itertools", "functools", "collections", "re"),
    *("statistics", "random", "numpy", "sympy"),
)
LAYERS = ("user", "pid", "net", "fs", "uid", "landlock", "seccomp", "fork")


@dataclass(frozen=True)
class Config:
    """The arguments of `LocalSandbox`, by the same names; see there.

    Raises:
        ValueError: a layer that is none, or no place to run in.
    """

    preload: tuple[str, ...] = PRELOAD
    limits: Limits = field(default_factory=Limits)
    require: tuple[str, ...] = ()
    max_running: int | None = None

    def __post_init__(self) -> None:
        for layer in self.require:
            if layer not in LAYERS:
                raise ValueError(f"unknown layer {layer!r}; layers are {', '.join(LAYERS)}")
        if self.max_running is not None and self.max_running < 1:
            raise ValueError(f"max_running must be at least 1 (or None), got {self.max_running}")
