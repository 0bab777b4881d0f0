"""The two interfaces: a `Sandbox` opens sessions, a `Session` runs code and keeps state.

Both have asynchronous methods (`arun`, `aopen`, ...) and plain twins (`run`, `open`, ...).
Neither is bound to an event loop: a session opened in one may be used from another, or
from none. One session runs one call at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self

from .types import Execution, Limits


class Session(ABC):
    """A live interpreter: names defined in one call are there in the next.

    After a timeout or crash the interpreter is gone; the next call starts from a fresh one
    and says so in `stderr`. `SandboxError` means that the sandbox was lost.
    """

    @abstractmethod
    async def arun(self, code: str, *, wall_s: float | None = None) -> Execution:
        """Run `code`; the last expression is echoed in `value`.

        Raises:
            SandboxError: the session was closed, or its sandbox was lost.
        """

    @abstractmethod
    def run(self, code: str, *, wall_s: float | None = None) -> Execution:
        """`arun`, blocking."""

    @abstractmethod
    async def afork(self) -> Session:
        """An independent copy: variables, generator states, random state, working files."""

    @abstractmethod
    def fork(self) -> Session:
        """`afork`, blocking."""

    @abstractmethod
    def close(self) -> None:
        """End the session at once, without waiting. Idempotent, never raises."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Sandbox(ABC):
    """Opens sessions. Picklable as its configuration: a copy starts its own servers."""

    @abstractmethod
    async def aopen(self, limits: Limits | None = None, *, seed: int = 0) -> Session:
        """Open a session; its `random`, numpy and hash state derive from `seed`.

        Raises:
            SandboxError: no session could be opened.
        """

    @abstractmethod
    def open(self, limits: Limits | None = None, *, seed: int = 0) -> Session:
        """`aopen`, blocking."""

    @abstractmethod
    def close(self) -> None:
        """End every session and server. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
