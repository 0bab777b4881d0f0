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


class _Closable(ABC):
    """`with` and `async with` for whatever can be closed."""

    @abstractmethod
    def close(self) -> None: ...

    async def aclose(self) -> None:
        """`close`, for `async with`."""
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Session(_Closable):
    """A live interpreter: names defined in one call are there in the next.

    After a timeout or crash the interpreter is gone; the next call starts from a fresh one
    and says so in `stderr`, or, in a session opened with `rollback`, from the state before the
    call that was killed. `SandboxError` means that the sandbox was lost.
    """

    @abstractmethod
    async def arun(
        self, code: str, *, wall_s: float | None = None, stdin: str | bytes = b""
    ) -> Execution:
        """Run `code`, which may read `stdin`; the last expression is echoed in `value`.

        Raises:
            ValueError: the code or its input is too large, or `wall_s` is no time to wait.
            RuntimeError: the session is running another call.
            SandboxError: the session was closed, or its sandbox was lost.
        """

    @abstractmethod
    def run(self, code: str, *, wall_s: float | None = None, stdin: str | bytes = b"") -> Execution:
        """`arun`, blocking."""

    @abstractmethod
    async def awrite_file(self, path: str, data: bytes) -> None:
        """Put a file into the working folder, replacing one; folders on the way are made.

        Raises:
            ValueError: `path` is not a plain relative path inside the working folder.
            OSError: it does not fit into a session with these limits.
            ProgramFault: it would, but for what the program has put there.
            SandboxError: as for `arun`.
        """

    @abstractmethod
    def write_file(self, path: str, data: bytes) -> None:
        """`awrite_file`, blocking."""

    @abstractmethod
    async def aread_file(self, path: str, *, max_bytes: int | None = None) -> bytes:
        """The bytes of a regular file below the working folder; never follows a link.

        Raises:
            ValueError: as for `awrite_file`, or the file is over `max_bytes` (by default the
                session's `file_bytes`).
            FileNotFoundError: no such file, or not a regular one.
            SandboxError: as for `arun`.
        """

    @abstractmethod
    def read_file(self, path: str, *, max_bytes: int | None = None) -> bytes:
        """`aread_file`, blocking."""

    @abstractmethod
    async def alist_files(self) -> list[str]:
        """Paths of the regular files below the working folder, relative to it, sorted.

        Raises:
            ProgramFault: the program has made more of them than can be listed.
            SandboxError: as for `arun`.
        """

    @abstractmethod
    def list_files(self) -> list[str]:
        """`alist_files`, blocking."""

    @abstractmethod
    async def afork(self) -> Session:
        """An independent copy: variables, generator states, random state, working files.

        Raises:
            ProgramFault: the program has made it impossible; see `sandbox/README.md`.
            SandboxError: as for `arun`, or sessions cannot be copied here.
        """

    @abstractmethod
    def fork(self) -> Session:
        """`afork`, blocking."""

    @abstractmethod
    def close(self) -> None:
        """End the session at once, without waiting. Idempotent, never raises."""


class Sandbox(_Closable):
    """Opens sessions. Picklable as its configuration: a copy starts its own servers."""

    @abstractmethod
    async def aopen(
        self, limits: Limits | None = None, *, seed: int = 0, rollback: bool = False
    ) -> Session:
        """Open a session; its `random` and numpy state derive from `seed`.

        That state goes on from call to call, and `fork` copies it. A fresh interpreter after a
        kill is seeded from `seed` and the number of calls so far.

        With `rollback` a call that is killed leaves the state before it, at the cost of one
        fork for each call.

        Raises:
            SandboxError: no session could be opened, or it could not be forked for `rollback`.
        """

    @abstractmethod
    def open(
        self, limits: Limits | None = None, *, seed: int = 0, rollback: bool = False
    ) -> Session:
        """`aopen`, blocking."""

    @property
    @abstractmethod
    def tier(self) -> str:
        """How strong the walls are here; starts the back end if need be.

        Raises:
            SandboxError: it does not start.
        """

    @property
    @abstractmethod
    def missing(self) -> dict[str, str]:
        """Layers that are absent here, with the reason; empty at full strength."""

    async def arun(
        self,
        code: str,
        *,
        limits: Limits | None = None,
        seed: int = 0,
        wall_s: float | None = None,
        stdin: str | bytes = b"",
    ) -> Execution:
        """Run `code` once, in a session of its own that is closed after it."""
        async with await self.aopen(limits, seed=seed) as session:
            return await session.arun(code, wall_s=wall_s, stdin=stdin)

    def run(
        self,
        code: str,
        *,
        limits: Limits | None = None,
        seed: int = 0,
        wall_s: float | None = None,
        stdin: str | bytes = b"",
    ) -> Execution:
        """`arun`, blocking."""
        with self.open(limits, seed=seed) as session:
            return session.run(code, wall_s=wall_s, stdin=stdin)

    @abstractmethod
    def close(self) -> None:
        """End every session and server. Idempotent."""
