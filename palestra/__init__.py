"""Palestra: a gym for language-model agents."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .envs.registration import make, register

    __version__: str

__all__ = ["__version__", "make", "register"]

# Resolved on first use, so that `import palestra` and `palestra --help` stay instant.
_LAZY = {"make": ".envs.registration", "register": ".envs.registration"}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name in _LAZY:
        return getattr(import_module(_LAZY[name], __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("palestra")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0+unknown"
