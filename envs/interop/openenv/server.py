"""The server: a WebSocket for each session, and HTTP requests on the same port.

It stands on `websockets` alone. That library takes HTTP requests without a body only, so
`_Connection` reads those with one itself.

There is no authentication, and an action may run code: `host` is this machine unless told
otherwise, and requests that a web page makes are refused.
"""

from __future__ import annotations

import asyncio
import http
import io
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from http.client import HTTPException, parse_headers
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from ...core import ChatEnv
from ..packages import need
from .http import Answer, Pages
from .sessions import ServeLimits, Session, Sessions
from .wire import CloseFrame, Code, Refused, ResetFrame, StepFrame, encode, parse_frame

if TYPE_CHECKING:
    from websockets.asyncio.server import ServerConnection
    from websockets.http11 import Request, Response

MAX_HEAD_BYTES = 2**16
GRACE_S = 2.0
GOING_AWAY, TRY_AGAIN_LATER = 1001, 1013


def serve(
    make_env: Callable[[], ChatEnv],
    *,
    name: str,
    description: str = "",
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: ServeLimits | None = None,
    started: Callable[[str], None] = lambda address: None,
) -> None:
    """Serve until SIGINT or SIGTERM. `started` is told the address: port 0 takes a free one."""

    async def run() -> None:
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        settings: Any = {"description": description, "host": host, "port": port, "limits": limits}
        async with serving(make_env, name=name, **settings) as address:
            started(address)
            await stop.wait()

    asyncio.run(run())


@asynccontextmanager
async def serving(
    make_env: Callable[[], ChatEnv],
    *,
    name: str,
    description: str = "",
    host: str = "127.0.0.1",
    port: int = 0,
    limits: ServeLimits | None = None,
) -> AsyncIterator[str]:
    """Serve an environment to OpenEnv clients while the block runs.

    Args:
        make_env: makes the environment of a session (see `registration.maker`).
        name, description: what `/metadata` says.

    Yields:
        The address, such as `http://127.0.0.1:8000`.

    Raises:
        OSError: the port is taken.
    """
    server_module = need("websockets.asyncio.server", "serve")
    limits = limits or ServeLimits()
    sessions = Sessions(make_env, limits)
    pages = Pages(sessions, name, description)
    talks: set[asyncio.Task[Any]] = set()

    async def talk(connection: ServerConnection) -> None:
        task = asyncio.current_task()
        assert task is not None
        talks.add(task)
        task.add_done_callback(talks.discard)
        await _converse(connection, sessions)

    async with server_module.serve(
        talk,
        host,
        port,
        create_connection=_connection_class(pages, limits),
        process_request=lambda connection, request: _get(pages, connection, request),
        origins=[None],
        compression=None,
        max_size=limits.max_message_bytes,
        # A request with a body may be a step, and is cut off when its connection is not open.
        open_timeout=limits.step_s + 10,
    ) as server:
        try:
            bound = server.sockets[0].getsockname()
            shown = f"[{bound[0]}]" if ":" in bound[0] else bound[0]
            yield f"http://{shown}:{bound[1]}"
        finally:
            server.close(code=GOING_AWAY, reason="the server is shutting down")
            if talks:
                await asyncio.wait(talks, timeout=GRACE_S)
            for task in talks:
                task.cancel()
            await server.wait_closed()
            sessions.close()


async def _converse(connection: ServerConnection, sessions: Sessions) -> None:
    """One session, from its opening to its end."""
    from websockets.exceptions import ConnectionClosed

    session = None
    try:
        session = await sessions.open()
        while True:
            answer = await _hear(connection, session, sessions.limits)
            if answer is None:
                return
            await connection.send(answer)
    except Refused as refused:  # the last word of this session
        code = TRY_AGAIN_LATER if refused.code is Code.CAPACITY_REACHED else GOING_AWAY
        with suppress(ConnectionClosed):  # the client may have left meanwhile
            await connection.send(encode(refused.to_dict()))
            await connection.close(code, refused.code.value)
    except ConnectionClosed:
        pass
    finally:
        if session is not None:
            sessions.release(session)


async def _hear(connection: ServerConnection, session: Session, limits: ServeLimits) -> str | None:
    """The answer to the client's next message; None when it takes its leave."""
    try:
        async with asyncio.timeout(limits.idle_s):
            text = await connection.recv()
    except TimeoutError as error:
        text = f"closed after {limits.idle_s:g} s without a message"
        raise Refused(Code.SESSION_ERROR, text, fatal=True) from error
    try:
        frame = parse_frame(text)
        if isinstance(frame, CloseFrame):
            return None
        if isinstance(frame, StepFrame):
            data = await session.step(frame.data.message(), limits.step_s)
        elif isinstance(frame, ResetFrame):
            data = session.reset(frame.data)
        else:
            return encode({"type": "state", "data": session.state()})
        return encode({"type": "observation", "data": data})
    except Refused as refused:
        if refused.fatal:
            raise
        return encode(refused.to_dict())


async def _get(pages: Pages, connection: ServerConnection, request: Request) -> Response | None:
    """Answer a GET; None goes on to a WebSocket."""
    url = urlsplit(request.path)
    if url.path == "/ws":
        return None
    status, data = await pages.get(url.path, dict(parse_qsl(url.query)))
    response = connection.respond(http.HTTPStatus(status), encode(data))
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = "application/json"
    return response


def _connection_class(pages: Pages, limits: ServeLimits) -> Any:
    from websockets.asyncio.server import ServerConnection

    class Connection(ServerConnection):
        """A WebSocket connection, or one request that has a body."""

        posted: _Post | None = None

        def data_received(self, data: bytes) -> None:
            if self.posted is None and self.request is None and data[:1] == b"P":
                self.posted = _Post(limits.max_message_bytes)
            if self.posted is None:
                super().data_received(data)
            elif not self.posted.complete and self.posted.feed(data):
                self.answering = self.loop.create_task(self.answer(self.posted))

        async def answer(self, request: _Post) -> None:
            try:
                posted = request.refused or await pages.post(request.path, bytes(request.body))
                status, body = posted[0], encode(posted[1]).encode()
            except Exception:  # the boundary: without an answer the client would wait
                self.logger.exception("POST %s failed", request.path)
                status, body = 500, encode({"detail": "the server failed: see its log"}).encode()
            head = f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\n"
            head += "Content-Type: application/json\r\nConnection: close\r\n"
            head += f"Content-Length: {len(body)}\r\n\r\n"
            self.transport.write(head.encode() + body)
            self.transport.close()

    return Connection


class _Post:
    """A request with a body, as it comes in."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.path = ""
        self.body = bytearray()
        self.refused: Answer | None = None
        self.complete = False
        self._head: bytearray | None = bytearray()
        self._expected = 0

    def feed(self, data: bytes) -> bool:
        """Take more bytes; true when there is something to answer."""
        if self._head is not None:
            self._head += data
            end = self._head.find(b"\r\n\r\n")
            long = max(end, len(self._head) if end < 0 else 0) > MAX_HEAD_BYTES
            self._refuse_if(long, 431, "the headers are too long")
            if end < 0 or long:
                return self.complete
            head, data = bytes(self._head[: end + 4]), bytes(self._head[end + 4 :])
            self._head = None
            self._read(head)
        self.body += data
        self.complete = self.complete or len(self.body) >= self._expected
        return self.complete

    def _read(self, head: bytes) -> None:
        line, _, rest = head.partition(b"\r\n")
        method, _, target = line.decode("latin-1").partition(" ")
        self.path = urlsplit(target.partition(" ")[0]).path
        try:
            headers = parse_headers(io.BytesIO(rest))
        except HTTPException as error:
            return self._refuse_if(True, 400, str(error))
        length = headers.get("Content-Length", "")
        self._expected = int(length) if length.isascii() and length.isdigit() else 0
        self._refuse_if(method != "POST", 405, f"no {method} here: GET and POST")
        self._refuse_if(headers.get("Origin") is not None, 403, "not for web pages")
        self._refuse_if(not length, 411, "send the body with a Content-Length")
        too_long = self._expected > self.max_bytes
        text = f"the body has {self._expected} bytes, and at most {self.max_bytes} are taken"
        return self._refuse_if(too_long, 413, text)

    def _refuse_if(self, wrong: bool, status: int, text: str) -> None:
        if wrong and self.refused is None:
            self.refused, self.complete = (status, {"detail": text}), True
