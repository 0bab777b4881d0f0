"""Palestra: a gym for language-model agents."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .envs.registration import make, register

try:
    __version__ = version("palestra")
except PackageNotFoundError:  # run from a checkout that was never installed
    __version__ = "0+unknown"

__all__ = ["__version__", "make", "register"]

# Resolved on first use, so that `import palestra` and `palestra --help` stay instant.
_LAZY = {"make": "registration", "register": "registration"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f".envs.{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
