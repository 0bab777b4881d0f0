"""A sandbox in containers: sessions forked from a warm server inside hardened containers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .client import DockerSandbox

__all__ = ["DockerSandbox"]


def __getattr__(name: str) -> Any:
    if name == "DockerSandbox":  # the gateway inside has no use for the host's side
        from .client import DockerSandbox

        return DockerSandbox
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
