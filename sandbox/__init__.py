"""Running model-written Python under limits: `Sandbox` opens sessions, `Session` runs code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import Sandbox, Session
from .types import Execution, Limits, ProgramFault, SandboxError, Stats, Status

if TYPE_CHECKING:
    from .local import LocalSandbox, shared_sandbox
    from .pool import Pool

__all__ = [
    "Execution",
    "Limits",
    "LocalSandbox",
    "Pool",
    "ProgramFault",
    "Sandbox",
    "SandboxError",
    "Session",
    "Stats",
    "Status",
    "shared_sandbox",
]


def __getattr__(name: str) -> Any:
    if name in ("LocalSandbox", "shared_sandbox"):
        from . import local

        return getattr(local, name)
    if name == "Pool":
        from .pool import Pool

        return Pool
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
