"""The plain HTTP half of the protocol: what a server is, and episodes without a WebSocket.

OpenEnv's own server makes a new environment for each plain request; here `/reset` begins an
episode that `/step` and `/state` name by its `episode_id`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import version
from typing import Any

from pydantic import BaseModel, ValidationError

from ...records import Json
from . import wire
from .sessions import Sessions
from .wire import Code, Refused

Answer = tuple[int, Json | list[str]]

_STATUS = {
    Code.CAPACITY_REACHED: 503,
    Code.FACTORY_ERROR: 500,
    Code.EXECUTION_ERROR: 500,
    Code.SESSION_ERROR: 404,
}
# JSON-RPC's own numbers
_PARSE_ERROR, _INVALID_REQUEST, _NO_METHOD = -32700, -32600, -32601


class Pages:
    """Answers requests; holds no episode of its own."""

    def __init__(self, sessions: Sessions, name: str, description: str) -> None:
        self.sessions = sessions
        self.name, self.description = name, description
        self._gets: dict[str, Callable[[], Json | list[str]]] = {
            "/health": lambda: {"status": "healthy"},
            "/metadata": lambda: {
                "name": name,
                "description": description,
                "version": version("palestra"),
            },
            "/schema": wire.schemas,
            "/openapi.json": self._openapi,
            "/list_environments": lambda: [name],
        }

    async def get(self, path: str, query: Mapping[str, str]) -> Answer:
        if path == "/state":
            name = query.get("episode_id")
            try:
                session = self.sessions.named(name) if name else None
            except Refused as refused:
                return _error(refused)
            return 200, session.state() if session else wire.State().model_dump()
        if path in self._gets:
            return 200, self._gets[path]()
        return 404, {"detail": f"no page {path}; there are {', '.join(self._gets)} and /state"}

    async def post(self, path: str, body: bytes) -> Answer:
        try:
            if path == "/reset":
                return 200, await self._reset(wire.Reset.model_validate_json(body or b"{}"))
            if path == "/step":
                return 200, await self._step(wire.StepBody.model_validate_json(body))
            if path == "/mcp":
                return 200, await self._rpc(body)
        except ValidationError as error:
            # Inputs are left out: they may be bytes or NaN, which the answer cannot carry.
            found = error.errors(include_url=False, include_context=False, include_input=False)
            return 422, {"detail": found}
        except Refused as refused:
            return _error(refused)
        return 404, {"detail": f"nothing takes a POST at {path}; /reset, /step and /mcp do"}

    async def _reset(self, request: wire.Reset) -> Json:
        if request.episode_id:
            self.sessions.vacate(request.episode_id)
        session = await self.sessions.open()
        try:
            if request.episode_id:  # another reset may have taken the name in the meantime
                self.sessions.vacate(request.episode_id)
            answer = session.reset(request)
        except BaseException:
            self.sessions.release(session)
            raise
        self.sessions.keep(session.state()["episode_id"], session)
        return answer

    async def _step(self, request: wire.StepBody) -> Json:
        name = request.episode_id
        session = self.sessions.named(name)
        if session.busy:
            raise Refused(Code.SESSION_ERROR, f"episode {name!r} is still at its last step")
        limit = min(request.timeout_s or self.sessions.limits.step_s, self.sessions.limits.step_s)
        session.busy, over = True, True
        try:
            answer = await session.step(request.action.message(), limit)
            over = answer["done"]
        except Refused as refused:
            over = refused.fatal or session.state()["done"]
            raise
        finally:
            session.busy = False
            if self.sessions.keeps(name, session):  # not where the server is shutting down
                self.sessions.forget(name) if over else self.sessions.touch(name)
        return answer

    async def _rpc(self, body: bytes) -> Json:
        """MCP's `tools/list`: tools are called by actions, within an episode."""
        try:
            call = _Rpc.model_validate_json(body)
        except ValidationError as error:
            broken = error.errors()[0]["type"] == "json_invalid"
            code = _PARSE_ERROR if broken else _INVALID_REQUEST
            return _rpc_error(code, f"not a JSON-RPC request: {error.errors()[0]['msg']}")
        if call.method != "tools/list":
            text = f"no method {call.method!r}: this server lists tools; actions call them"
            return _rpc_error(_NO_METHOD, text, call.id)
        session = await self.sessions.open()
        functions = [schema["function"] for schema in session.env.tool_schemas]
        self.sessions.release(session)
        tools = [
            {"name": f["name"], "description": f["description"], "inputSchema": f["parameters"]}
            for f in functions
        ]
        return {"jsonrpc": "2.0", "result": {"tools": tools}, "id": call.id}

    def _openapi(self) -> Json:
        def page(summary: str, body: type[BaseModel] | None = None) -> Json:
            entry: Json = {"summary": summary, "responses": {"200": {"description": "JSON"}}}
            if body is not None:
                content = {"application/json": {"schema": body.model_json_schema()}}
                entry["requestBody"] = {"required": True, "content": content}
            return entry

        return {
            "openapi": "3.1.0",
            "info": {
                "title": self.name,
                "version": wire.OPENENV_API,
                "description": self.description,
            },
            "paths": {
                "/reset": {"post": page("begin an episode", wire.Reset)},
                "/step": {"post": page("act in an episode", wire.StepBody)},
                "/state": {"get": page("an episode's state, by ?episode_id=")},
                "/mcp": {"post": page("the tools, by MCP's tools/list", _Rpc)},
                **{path: {"get": page(path.strip("/"))} for path in self._gets},
            },
        }


class _Rpc(BaseModel):
    jsonrpc: str
    method: str
    params: dict[str, Any] = {}
    id: int | str | None = None


def _rpc_error(code: int, message: str, id: int | str | None = None) -> Json:
    return {"jsonrpc": "2.0", "error": {"code": code, "message": message}, "id": id}


def _error(refused: Refused) -> Answer:
    data = refused.to_dict()["data"]
    return _STATUS.get(refused.code, 422), {"detail": data["message"], **data}
