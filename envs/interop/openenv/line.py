"""A connection to an OpenEnv server, for plain and async callers.

All connections of the process live in one background event loop: `reset` is plain, steps are
awaited in the loop of the rollout, and a socket belongs to one loop.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit

from ...records import Json
from .. import background
from ..packages import need

MAX_MESSAGE_BYTES = 100 * 2**20


class Line:
    """One session on a server. It is opened when first asked, and again after a failure."""

    def __init__(self, url: str, timeout_s: float) -> None:
        need("websockets.asyncio.client", "serve")
        self.url, self.timeout_s = url, timeout_s
        self._socket: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None

    async def ask(self, request: Mapping[str, Any]) -> Json:
        """The data of the server's answer.

        Raises:
            ConnectionError: the server is lost, refuses, or says what is no answer.
        """
        return await asyncio.wrap_future(self._submit(request))

    def ask_and_wait(self, request: Mapping[str, Any]) -> Json:
        """`ask` for callers outside of a loop."""
        return self._submit(request).result()

    def close(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None and self._loop is background.loop():
            background.submit(socket.close())

    def _submit(self, request: Mapping[str, Any]) -> Future[Json]:
        loop = background.loop()
        if self._loop is not loop:  # a copy, or another process
            self._socket, self._loop = None, loop
        return background.submit(self._exchange(json.dumps(request)))

    async def _exchange(self, request: str) -> Json:
        from websockets.exceptions import WebSocketException

        try:
            async with asyncio.timeout(self.timeout_s):
                if self._socket is None:
                    self._socket = await self._connect()
                await self._socket.send(request)
                return _data(json.loads(await self._socket.recv()))
        except TimeoutError as error:
            self.close()  # its answer may come yet, and is no answer to the next request
            raise ConnectionError(f"{self.url} did not answer in {self.timeout_s:g} s") from error
        except (WebSocketException, OSError, ValueError) as error:
            self.close()
            raise ConnectionError(f"{self.url}: {error}") from error
        except asyncio.CancelledError:
            self.close()
            raise

    async def _connect(self) -> Any:
        from websockets.asyncio.client import connect

        url = urlsplit(self.url)
        scheme = {"http": "ws", "https": "wss"}.get(url.scheme, url.scheme)
        return await connect(
            f"{scheme}://{url.netloc}{url.path}/ws",
            max_size=MAX_MESSAGE_BYTES,
            proxy=None if is_local(self.url) else True,
            compression=None,
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return Line, (self.url, self.timeout_s)


def is_local(url: str) -> bool:
    """Whether the server is on this machine, where no proxy stands between."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _data(answer: Any) -> Json:
    if not isinstance(answer, dict) or not isinstance(answer.get("data"), dict):
        raise ValueError(f"not an answer: {answer!r:.200}")
    data: Json = answer["data"]
    if answer.get("type") == "error":
        raise ConnectionError(f"{data.get('message')} ({data.get('code')})")
    if not isinstance(data.get("observation"), dict):
        raise ValueError(f"not an observation: {answer!r:.200}")
    return data
