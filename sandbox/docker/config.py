"""What a `DockerSandbox` was asked for, in one value that pickles."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..local.config import PRELOAD
from ..local.config import Config as LocalConfig
from ..types import Limits
from .image import DEFAULT


@dataclass(frozen=True)
class DockerConfig:
    """The arguments of `DockerSandbox`, by the same names; see there.

    Raises:
        ValueError: a layer that is none, or a limit that is not positive.
    """

    image: str = DEFAULT
    preload: tuple[str, ...] = PRELOAD
    limits: Limits = field(default_factory=Limits)
    require: tuple[str, ...] = ()
    max_running: int | None = None
    ready: int | None = None
    containers: int = 2
    runtime: str | None = None
    namespaces: bool = True
    memory_bytes: int = 4 << 30
    cpus: float | None = None
    pids: int = 4096
    tmp_bytes: int = 1 << 30
    patience_s: float = 10.0

    def __post_init__(self) -> None:
        for name in ("containers", "memory_bytes", "cpus", "pids", "tmp_bytes", "patience_s"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        # The server inside takes these, and it is better to hear of a mistake at once.
        LocalConfig(self.preload, self.limits, self.require, self.max_running, self.ready)
