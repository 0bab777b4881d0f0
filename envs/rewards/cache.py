"""Verdicts by content: the same question to the same judge is paid for once.

A key is the hash of everything that the verdict depends on: the judge, the version of its
prompt, the sampling, and the content. Only verdicts are kept, never failures.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

from ..types import Invalid

_VERSION = 1  # of the keys; a change of what they mean must not find old verdicts


def content_key(**content: Any) -> str:
    """SHA-256 of the content's canonical JSON.

    Raises:
        TypeError: something in it is not JSON.
    """
    text = json.dumps([_VERSION, content], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Cache(Protocol):
    """Keeps JSON values by key. Both kinds are safe in any thread."""

    def get(self, key: str) -> Any | None: ...

    def put(self, key: str, value: Any) -> None: ...


class MemoryCache:
    """The `size` values used last, in this process. A copy starts empty."""

    def __init__(self, size: int = 100_000) -> None:
        if size < 1:
            raise ValueError(f"a cache needs room for one value at least, got size {size}")
        self.size = size
        self._values: OrderedDict[str, Any] = OrderedDict()
        self._guard = threading.Lock()

    def get(self, key: str) -> Any | None:
        with self._guard:
            if key in self._values:
                self._values.move_to_end(key)
            return self._values.get(key)

    def put(self, key: str, value: Any) -> None:
        with self._guard:
            self._values[key] = value
            self._values.move_to_end(key)
            while len(self._values) > self.size:
                self._values.popitem(last=False)

    def __len__(self) -> int:
        return len(self._values)

    def __reduce__(self) -> tuple[type[MemoryCache], tuple[int]]:
        return MemoryCache, (self.size,)


class DiskCache:
    """A file (SQLite) that several processes and runs may share. A copy opens it anew.

    Raises:
        sqlite3.DatabaseError: on use, if the file is something else.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._guard = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._owner = 0

    def get(self, key: str) -> Any | None:
        with self._guard:
            cursor = self._open().execute("SELECT value FROM verdicts WHERE key = ?", (key,))
            row = cursor.fetchone()
        return json.loads(row[0]) if row else None

    def put(self, key: str, value: Any) -> None:
        text = json.dumps(value)
        with self._guard, self._open() as connection:
            connection.execute("INSERT OR REPLACE INTO verdicts VALUES (?, ?)", (key, text))

    def close(self) -> None:
        """Idempotent; a later use opens the file again."""
        with self._guard:
            if self._connection is not None and self._owner == os.getpid():
                self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None or self._owner != os.getpid():
            # SQLite's handles must not cross a fork: the child opens its own.
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(self.path, timeout=60, check_same_thread=False)
            self._owner = os.getpid()
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=NORMAL")
            self._connection.execute(
                "CREATE TABLE IF NOT EXISTS verdicts (key TEXT PRIMARY KEY, value TEXT NOT NULL)"
            )
        return self._connection

    def __reduce__(self) -> tuple[type[DiskCache], tuple[Path]]:
        return DiskCache, (self.path,)


class Memo:
    """A cache in front of an `async` question: what is known, or is being asked already (the
    members of a group often answer alike), is not asked again."""

    def __init__(self, cache: Cache | None = None) -> None:
        self.cache: Cache = MemoryCache() if cache is None else cache
        self._asking: dict[tuple[asyncio.AbstractEventLoop, str], asyncio.Future[Any]] = {}

    async def __call__(self, key: str, ask: Callable[[], Awaitable[Any]]) -> Any:
        """The value of `key`, asked for if need be. `Invalid` is passed on, not kept."""
        if (known := self.cache.get(key)) is not None:
            return known
        at = (asyncio.get_running_loop(), key)
        if at not in self._asking:
            self._asking[at] = asyncio.ensure_future(self._ask(key, ask))
            self._asking[at].add_done_callback(lambda _: self._asking.pop(at, None))
        # Whoever is cancelled gives up for itself only: others may wait for the same answer.
        return await asyncio.shield(self._asking[at])

    async def _ask(self, key: str, ask: Callable[[], Awaitable[Any]]) -> Any:
        value = await ask()
        if not isinstance(value, Invalid):
            self.cache.put(key, value)
        return value

    def __reduce__(self) -> tuple[type[Memo], tuple[Cache]]:
        return Memo, (self.cache,)
