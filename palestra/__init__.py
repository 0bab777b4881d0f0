"""Palestra: a gym for language-model agents. Importing it registers its environments."""

from __future__ import annotations

from typing import Any

from .envs.registration import make, register

__all__ = ["__version__", "make", "register"]

__version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":  # reading the metadata costs more than most programs need
        return _version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("palestra")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "0+unknown"
