"""What the command line says when something is wrong."""

from __future__ import annotations

from ..envs.configfile import ConfigError, nearest

__all__ = ["ConfigError", "UsageError", "nearest"]


class UsageError(ValueError):
    """The command was asked for something that does not exist or does not fit: exit code 2."""
