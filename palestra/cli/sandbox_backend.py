"""The back end that `--backend` names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from .errors import UsageError

if TYPE_CHECKING:
    from ..sandbox import Sandbox

Backend = Literal["local", "docker", "runsc"]


def make_sandbox(backend: Backend, **options: Any) -> Sandbox:
    """A sandbox of this kind, not started yet; `options` as its class takes them.

    Raises:
        UsageError: an option is not possible.
        ImportError: the back end needs a package that is not installed.
    """
    try:
        if backend == "local":
            from ..sandbox import LocalSandbox

            return LocalSandbox(**options)
        from ..sandbox.docker import DockerSandbox

        return DockerSandbox(**options, runtime="runsc" if backend == "runsc" else None)
    except ValueError as error:
        raise UsageError(str(error)) from error


def words(text: str) -> tuple[str, ...]:
    """The words of a list that is given with commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())
