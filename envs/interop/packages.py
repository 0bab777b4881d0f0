"""Packages that are imported on first use, with an error that says how to get them."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType


def need(module: str, extra: str) -> ModuleType:
    """Import a module of an optional package.

    Raises:
        ImportError: the package is not installed; the message names the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != package:
            raise  # the package is there, and itself lacks something
        raise ImportError(
            f"{package} is not installed: pip install 'palestra[{extra}]'", name=error.name
        ) from error
