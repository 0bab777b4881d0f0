"""`PoolClient`: what one of many callers sees of a pool."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from ..base import Sandbox, Session
from ..types import Execution, Limits, SandboxError

if TYPE_CHECKING:
    from .pool import Pool
    from .session import PoolSession


class PoolClient(Sandbox):
    """One client's view of a pool. Closing it ends the sessions opened through it, and
    their forks."""

    def __init__(self, pool: Pool, name: str) -> None:
        self.pool = pool
        self.name = name
        self._closed = False
        self._sessions: weakref.WeakSet[Session] = weakref.WeakSet()

    def __reduce__(self) -> tuple[Any, ...]:
        return PoolClient, (self.pool, self.name)

    async def aopen(
        self, limits: Limits | None = None, *, seed: int = 0, rollback: bool = False
    ) -> Session:
        self._usable()
        opened = self.pool.aopen(limits, seed=seed, rollback=rollback, client=self.name)
        return self._kept(await opened)

    def open(
        self, limits: Limits | None = None, *, seed: int = 0, rollback: bool = False
    ) -> Session:
        self._usable()
        opened = self.pool.open(limits, seed=seed, rollback=rollback, client=self.name)
        return self._kept(opened)

    async def arun(self, code: str, **how: Any) -> Execution:
        """`Pool.arun` in this client's queue."""
        self._usable()
        return await self.pool.arun(code, **how, client=self.name)

    def run(self, code: str, **how: Any) -> Execution:
        """`Pool.run` in this client's queue."""
        self._usable()
        return self.pool.run(code, **how, client=self.name)

    @property
    def tier(self) -> str:
        return self.pool.tier

    @property
    def missing(self) -> dict[str, str]:
        return self.pool.missing

    def close(self) -> None:
        self._closed = True
        for session in list(self._sessions):
            session.close()

    def _usable(self) -> None:
        if self._closed:
            raise SandboxError(f"the view of client {self.name!r} was closed")

    def _kept(self, session: PoolSession) -> Session:
        session.keep(self._sessions)
        return session
