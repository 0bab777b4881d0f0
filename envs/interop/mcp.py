"""MCP servers as tools.

env = MyEnv(tools=mcp_tools("python my_server.py"))
env = MyEnv(tools=mcp_tools("http://127.0.0.1:8000/mcp", stateless=True))
"""

from __future__ import annotations

import asyncio
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from ..records import Json
from ..tools import Tool, ToolFailure, ToolRunError, ToolTimeout
from .background import submit
from .packages import need

CONNECT_S = 30.0  # to open a connection, and then to list what is offered
CLOSE_S = 15.0


@dataclass(frozen=True)
class McpServer:
    """How to reach a server: a command to start (stdio), or a URL (streamable HTTP).

    A started server sees the environment variables that the `mcp` package thinks safe (PATH,
    HOME, ...) and those in `env`.
    """

    target: str | tuple[str, ...]
    env: tuple[tuple[str, str], ...] = ()
    timeout_s: float = 60.0
    stateless: bool = False

    def client(self) -> Any:
        mcp = need("mcp", "mcp")
        if isinstance(self.target, str) and self.target.startswith(("http://", "https://")):
            return mcp.Client(self.target)
        words = shlex.split(self.target) if isinstance(self.target, str) else list(self.target)
        stdio = need("mcp.client.stdio", "mcp").StdioServerParameters
        return mcp.Client(stdio(command=words[0], args=words[1:], env=dict(self.env) or None))

    def __str__(self) -> str:
        return self.target if isinstance(self.target, str) else shlex.join(self.target)


@dataclass(eq=False)
class _Session:
    """One opening of a connection: what it yields, its end, and the task that holds it."""

    opened: asyncio.Future[Any]
    over: asyncio.Event
    holder: asyncio.Task[None]


class Connection:
    """A connection that is opened by the first call, and again by the next after `close`.

    All tools of one `mcp_tools` share it. Methods with an underscore run in the background loop.
    """

    def __init__(self, server: McpServer) -> None:
        self.server = server
        self._session: _Session | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy is closed; tools copied together share it, since a memo knows the object."""
        return Connection, (self.server,)

    @property
    def is_open(self) -> bool:
        return self._session is not None

    async def call(self, name: str, arguments: Json) -> Any:
        """The server's `CallToolResult`.

        Raises:
            ToolFailure: the server cannot be reached, or was lost.
            ToolTimeout: it did not answer in time.
            ToolRunError: it refused the call.
        """
        return await asyncio.wrap_future(submit(self._call(name, arguments)))

    def offered(self) -> list[Any]:
        """Descriptions of the tools on offer; leaves the connection open.

        Raises:
            ToolFailure: the server cannot be reached, or does not come to an end.
        """
        return submit(self._list()).result()

    def close(self, *, wait: bool = True) -> None:
        """Close it; a server that was started is asked to end, which may take seconds."""
        if self.is_open:
            closing = submit(self._close(self._session))
            if wait:
                closing.result()

    async def _call(self, name: str, arguments: Json) -> Any:
        from mcp.shared.exceptions import MCPError
        from mcp_types import CONNECTION_CLOSED, REQUEST_TIMEOUT

        (client, session), limit = await self._open(), self.server.timeout_s
        try:
            return await client.call_tool(name, arguments, read_timeout_seconds=limit)
        except MCPError as error:
            if error.code == REQUEST_TIMEOUT:
                raise ToolTimeout(f"Error: {name} did not answer in {limit:g} s") from error
            if error.code != CONNECTION_CLOSED:
                raise ToolRunError(f"Error: {error}") from error
            await self._close(session)
            raise ToolFailure(f"the MCP server was lost ({self.server})") from error
        except Exception as error:
            await self._close(session)
            text = f"the MCP server was lost ({self.server}): {type(error).__name__}: {error}"
            raise ToolFailure(text) from error

    async def _list(self) -> list[Any]:
        client, _ = await self._open()
        tools: list[Any] = []
        cursor = None
        try:
            async with asyncio.timeout(CONNECT_S):  # of all pages: a server may have no last one
                while True:
                    page = await client.list_tools(cursor=cursor)
                    tools += page.tools
                    cursor = page.next_cursor
                    if not cursor:
                        return tools
        except TimeoutError as error:
            text = f"the MCP server ({self.server}) did not list its tools in {CONNECT_S:g} s"
            raise ToolFailure(text) from error

    async def _open(self) -> tuple[Any, _Session]:
        """The client, and the session to close if it fails: by then there may be another."""
        session = self._session
        if session is None:
            opened, over = asyncio.get_running_loop().create_future(), asyncio.Event()
            holder = asyncio.create_task(self._hold(opened, over))
            session = self._session = _Session(opened, over, holder)
        try:
            return await asyncio.wait_for(asyncio.shield(session.opened), CONNECT_S), session
        except Exception as error:
            await self._close(session)
            text = f"cannot reach the MCP server ({self.server}): {_innermost(error)}"
            raise ToolFailure(text) from error

    async def _hold(self, opened: asyncio.Future[Any], over: asyncio.Event) -> None:
        """Enter and leave the connection in one task, as its cancel scopes demand."""
        try:
            async with self.server.client() as client:
                if not opened.done():
                    opened.set_result(client)
                await over.wait()
        except asyncio.CancelledError:
            _give_up(opened)
            raise
        except Exception as error:  # noqa: BLE001 - the tool boundary; losses show in calls
            if not opened.done():
                opened.set_exception(error)

    async def _close(self, session: _Session | None) -> None:
        """Close this session, unless another call has: the current one may be a newer one."""
        if session is None or self._session is not session:
            return
        self._session = None
        if not session.opened.done():
            _give_up(session.opened)  # here too: a task cancelled before it ran does nothing
            session.holder.cancel()
        session.over.set()
        _, stuck = await asyncio.wait([session.holder], timeout=CLOSE_S)
        for holder in stuck:
            holder.cancel()


@dataclass(frozen=True, slots=True)
class McpTool(Tool):
    """A tool of an MCP server, whose arguments the server checks."""

    connection: Connection = field(repr=False, kw_only=True)

    def __reduce__(self) -> tuple[Any, ...]:
        return _tool, (self.name, self.description, self.parameters, self.connection)

    @property
    def is_async(self) -> bool:
        return True

    def branch(self) -> None:
        if self.connection.is_open and not self.connection.server.stateless:
            raise TypeError(
                f"what the MCP server of {self.name!r} knows cannot be copied, so this episode "
                f"cannot be branched: pass stateless=True if its answers depend on nothing else"
            )

    def release(self) -> None:
        if not self.connection.server.stateless:
            self.connection.close(wait=False)  # other episodes are waiting

    def close(self) -> None:
        self.connection.close()

    def _validate(self, arguments: str) -> Json:
        values = json.loads(arguments or "{}", strict=False)
        if not isinstance(values, dict):
            raise ValueError("arguments must be a JSON object")
        return values


def mcp_tools(
    server: str | Sequence[str],
    *,
    only: Sequence[str] = (),
    env: Mapping[str, str] | None = None,
    timeout_s: float = 60.0,
    stateless: bool = False,
) -> list[Tool]:
    """The tools of an MCP server, for `ToolEnv(tools=...)`; closed with the environment.

    What they are is asked once per process. Afterwards a connection is opened by the first
    call of an episode and closed at its end, so that no episode meets what another left. A
    result marked as an error, a refused call and a timeout are observations; a server that is
    lost or cannot be reached makes the episode invalid.

    Args:
        server: a command, which is started and spoken to over stdio, or an http(s) URL.
        only: take these tools only.
        env: environment variables for the command.
        timeout_s: of one call.
        stateless: the server remembers nothing between calls: one connection serves all
            episodes of the environment, and snapshots are allowed.

    Raises:
        ImportError: mcp is not installed.
        ToolFailure: the server cannot be reached.
        ValueError: `only` names a tool that it does not have.
    """
    need("mcp", "mcp")
    target = server if isinstance(server, str) else tuple(server)
    known = McpServer(target, tuple(sorted((env or {}).items())), timeout_s, stateless)
    offered = {tool[0]: tool for tool in _offered(known)}
    if unknown := set(only) - set(offered):
        raise ValueError(f"no tools {sorted(unknown)}; the server has {', '.join(offered)}")
    connection = Connection(known)
    return [_tool(*offered[name], connection) for name in only or offered]


@cache
def _offered(server: McpServer) -> tuple[tuple[str, str, Json], ...]:
    connection = Connection(server)
    try:
        listed = connection.offered()
    finally:
        connection.close()
    return tuple((tool.name, tool.description or "", tool.input_schema) for tool in listed)


def _tool(name: str, description: str, parameters: Json, connection: Connection) -> McpTool:
    call = partial(_called, connection, name)
    return McpTool(name, description, parameters, call, dict, connection=connection)


async def _called(connection: Connection, tool: str, /, **arguments: Any) -> str:
    result = await connection.call(tool, arguments)
    text = "\n".join(map(_as_text, result.content))
    if result.is_error:
        raise ToolRunError(text or "Error: the tool failed and said nothing")
    if not text and result.structured_content is not None:
        return json.dumps(result.structured_content, ensure_ascii=False)
    return text


def _as_text(block: Any) -> str:
    if block.type == "text":
        return str(block.text)
    if block.type == "resource" and hasattr(block.resource, "text"):
        return str(block.resource.text)
    return f"[{block.type}{f': {kind}' if (kind := getattr(block, 'mime_type', '')) else ''}]"


def _give_up(opened: asyncio.Future[Any]) -> None:
    """Wake those who wait for a connection that will not be opened."""
    if not opened.done():
        opened.set_exception(ConnectionError("it was closed while it was being opened"))
        opened.exception()  # there may be no one to hear it, which is no error


def _innermost(error: BaseException) -> str:
    """What went wrong, out of the groups that task groups wrap it in."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {error}"
