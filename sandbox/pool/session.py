"""`PoolSession`: a session of one of the pool's members, whose calls take the pool's places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from ..base import Session
from ..types import Execution, SandboxError
from .members import Life
from .steps import Steps, atake, step, take

if TYPE_CHECKING:
    from .pool import Pool


class PoolSession(Session):
    """Made by `Pool.open` and `fork`. It stays with its member, and is lost with it."""

    def __init__(self, pool: Pool, client: str, life: Life, inner: Session) -> None:
        self._pool = pool
        self._client = client
        self._life = life
        self._inner = inner
        self._closed = False
        self._lost = False
        self.kept: WeakSet[Session] | None = None  # by a client, with the forks

    async def arun(
        self, code: str, *, wall_s: float | None = None, stdin: str | bytes = b""
    ) -> Execution:
        return await atake(self._run(code, wall_s=wall_s, stdin=stdin))

    def run(self, code: str, *, wall_s: float | None = None, stdin: str | bytes = b"") -> Execution:
        return take(self._run(code, wall_s=wall_s, stdin=stdin))

    async def awrite_file(self, path: str, data: bytes) -> None:
        await atake(self._use("write_file", path, data))

    def write_file(self, path: str, data: bytes) -> None:
        take(self._use("write_file", path, data))

    async def aread_file(self, path: str, *, max_bytes: int | None = None) -> bytes:
        data: bytes = await atake(self._use("read_file", path, max_bytes=max_bytes))
        return data

    def read_file(self, path: str, *, max_bytes: int | None = None) -> bytes:
        data: bytes = take(self._use("read_file", path, max_bytes=max_bytes))
        return data

    async def alist_files(self) -> list[str]:
        names: list[str] = await atake(self._use("list_files"))
        return names

    def list_files(self) -> list[str]:
        names: list[str] = take(self._use("list_files"))
        return names

    async def afork(self) -> Session:
        return self._beside(await atake(self._use("fork")))

    def fork(self) -> Session:
        return self._beside(take(self._use("fork")))

    def close(self) -> None:
        self._closed = True
        self._life.sessions.discard(self._inner)
        self._inner.close()

    def keep(self, sessions: WeakSet[Session] | None) -> None:
        """Be one of these, as every fork of it will be."""
        self.kept = sessions
        if sessions is not None:
            sessions.add(self)

    def _beside(self, inner: Session) -> PoolSession:
        self._life.sessions.add(inner)
        made = PoolSession(self._pool, self._client, self._life, inner)
        made.keep(self.kept)
        return made

    def _run(self, code: str, **how: Any) -> Steps[Execution]:
        return self._pool.counted(self._client, lambda: self.call("run", code, **how))

    def _use(self, name: str, *args: Any, **kwargs: Any) -> Steps[Any]:
        yield step(self._pool.gate, "acquire", self._client)
        try:
            return (yield from self.call(name, *args, **kwargs))
        finally:
            self._pool.gate.release()

    def call(self, name: str, *args: Any, **kwargs: Any) -> Steps[Any]:
        """One call of the member's session, for somebody who has a place."""
        roster = self._pool.roster
        roster.enter(self._life)
        worked = False
        try:
            result = yield step(self._inner, name, *args, **kwargs)
            worked = True
            return result
        except SandboxError as error:
            # A program can make its own forks fail: that says nothing of the member.
            if name != "fork" and not self._closed:
                self._note_loss(error)
            raise
        finally:
            roster.leave(self._life, worked=worked)

    def _note_loss(self, error: SandboxError) -> None:
        if not self._lost:  # asking a lost session again tells nothing new of its member
            self._lost = True
            self._pool.roster.doubt(self._life, error)
            self._pool.tally.count("sessions_lost")
