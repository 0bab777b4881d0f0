"""A sandbox on this machine: sessions forked from a warm server, without a daemon."""

from .client import LocalSandbox, shared_sandbox

__all__ = ["LocalSandbox", "shared_sandbox"]
