"""Tools of real MCP servers, over stdio and streamable HTTP."""

from __future__ import annotations

import asyncio
import json
import pickle
import socket
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from palestra.envs.core import ToolEnv
from palestra.envs.interop import mcp
from palestra.envs.interop.mcp import Connection, McpServer, mcp_tools
from palestra.envs.tools import ToolFailure
from palestra.envs.types import Message, Outcome, Task, ToolStatus

pytest.importorskip("mcp")

SCRIPT = str(Path(__file__).with_name("mcp_server.py"))
COMMAND = (sys.executable, SCRIPT)


class Desk(ToolEnv):
    """Any answer will do."""

    def __init__(self, *, server=COMMAND, tools=None, **options):
        tasks = [Task("t", (Message("user", "Use the tools."),), "done")]
        super().__init__(tasks=tasks, tools=tools or mcp_tools(server, **options), max_turns=20)

    def grade(self, task, messages):
        return float(task.reference in messages[-1].content)


@pytest.fixture
def desk():
    env = Desk()
    env.reset(seed=0)
    yield env
    env.close()


@pytest.fixture
def url():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([*COMMAND, str(port)])
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.kill()
        process.wait()


def written(name, /, **arguments):
    call = json.dumps({"name": name, "arguments": arguments})
    return f"<tool_call>{call}</tool_call>"


def use(env, name, /, **arguments):
    """The result of one call, as the agent sees it and as it is counted."""
    observation, *_, info = env.step(written(name, **arguments))
    (result,) = info["tool_results"]
    assert observation[0].content == result.content
    return result.content, result.status


def test_the_servers_schemas_are_the_tools(desk):
    schema = next(s for s in desk.tool_schemas if s["function"]["name"] == "add")
    assert schema["function"]["description"] == "Add two numbers."
    assert schema["function"]["parameters"]["required"] == ["a"]
    assert "add" in desk.tool_instructions


def test_calls_reach_the_server_and_errors_are_observations(desk):
    assert use(desk, "add", a=2, b=40) == ("42", ToolStatus.OK)
    assert use(desk, "picture") == ("[image: image/gif]", ToolStatus.OK)
    text, status = use(desk, "fail", why="out of paper")
    assert "out of paper" in text and status is ToolStatus.ERROR
    text, status = use(desk, "add", a="many")
    assert "valid integer" in text and status is ToolStatus.ERROR
    assert use(desk, "add", a=1) == ("2", ToolStatus.OK)  # it goes on
    *_, reward, ended, _, _ = desk.step("done")
    assert ended and reward == 1.0
    assert desk.tool_stats.calls == 5 and desk.tool_stats.errors == 2


def test_no_episode_meets_what_another_left(desk):
    assert [use(desk, "counter")[0] for _ in range(2)] == ["call 1", "call 2"]
    desk.reset(seed=0)
    assert use(desk, "counter")[0] == "call 1"
    with pytest.raises(TypeError, match="cannot be branched: pass stateless=True"):
        desk.snapshot()


def test_a_stateless_server_serves_all_episodes_and_branches():
    env = Desk(stateless=True)
    env.reset(seed=0)
    assert use(env, "counter")[0] == "call 1"
    env.reset(seed=0)
    assert use(env, "counter")[0] == "call 2"  # one connection, as was promised to be harmless
    point = env.snapshot()
    results = []
    for _ in range(2):
        env.restore(point)
        results.append(use(env, "add", a=1))
    assert results[0] == results[1]
    env.close()


def test_a_lost_server_makes_the_episode_invalid_and_the_next_begins_anew(desk):
    *_, truncated, info = desk.step(written("crash"))
    assert truncated and info["outcome"] is Outcome.INVALID
    assert info["failure"].kind == "tool" and "was lost" in info["failure"].message
    desk.reset(seed=0)
    assert use(desk, "counter") == ("call 1", ToolStatus.OK)


def test_a_slow_call_is_a_timeout_and_the_server_is_kept():
    env = Desk(timeout_s=1.0)
    env.reset(seed=0)
    use(env, "counter")
    text, status = use(env, "slow", seconds=4)
    assert "did not answer in 1 s" in text and status is ToolStatus.TIMEOUT
    assert use(env, "counter")[0] == "call 2"
    env.close()


def test_episodes_side_by_side_have_servers_of_their_own():
    async def episode():
        env = Desk()
        env.reset(seed=0)
        said = [(await env.astep(written("counter")))[0][0].content for _ in range(2)]
        env.close()
        return said

    async def both():
        return await asyncio.gather(episode(), episode())

    assert asyncio.run(both()) == [["call 1", "call 2"]] * 2


def test_an_environment_with_open_tools_can_be_pickled(desk):
    use(desk, "counter")
    copy = pickle.loads(pickle.dumps(desk))
    assert copy.tool_schemas == desk.tool_schemas
    assert use(copy, "counter")[0] == "call 1"
    assert use(desk, "counter")[0] == "call 2"
    copy.close()
    connections = {tool.connection for env in (desk, copy) for tool in env.tools.values()}
    assert len(connections) == 2  # one each, which all of its tools share


class Fake:
    """A connection to a client that is here; `entered` runs while it is being opened."""

    def __init__(self, monkeypatch, client, entered=None):
        self.opened = 0

        @asynccontextmanager
        async def enter(server):
            self.opened += 1
            await (entered() if entered else asyncio.sleep(0))
            yield client

        monkeypatch.setattr(McpServer, "client", enter)
        self.connection = Connection(McpServer("fake", stateless=True))


def test_a_late_failure_leaves_the_next_connection_alone(monkeypatch):
    async def call_tool(name, arguments, **options):
        await asyncio.sleep(arguments["after"])
        if arguments["fails"]:
            raise OSError("gone")
        return "well"

    async def play():
        fake = Fake(monkeypatch, SimpleNamespace(call_tool=call_tool))
        use = fake.connection._call
        late = asyncio.create_task(use("t", {"after": 0.2, "fails": True}))
        with pytest.raises(ToolFailure, match="gone"):
            await use("t", {"after": 0.05, "fails": True})
        assert await use("t", {"after": 0, "fails": False}) == "well"
        with pytest.raises(ToolFailure, match="gone"):
            await late
        assert fake.connection.is_open and fake.opened == 2
        await fake.connection._close(fake.connection._session)
        assert not fake.connection.is_open

    asyncio.run(play())


@pytest.mark.parametrize("after", [0, 0.05])
def test_closing_wakes_those_who_wait_for_the_opening(monkeypatch, after):
    async def play():
        fake = Fake(monkeypatch, None, asyncio.Event().wait)
        waiting = [asyncio.create_task(fake.connection._open()) for _ in range(2)]
        await asyncio.sleep(after)
        if not after:
            assert fake.opened == 0  # closed before the opening has begun
        await fake.connection._close(fake.connection._session)
        ended = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), 5)
        assert all(isinstance(end, ToolFailure) and "was closed" in str(end) for end in ended)

    asyncio.run(play())


def test_an_endless_list_and_a_stuck_end_are_cut_short(monkeypatch):
    async def list_tools(cursor):
        await asyncio.sleep(0.001)
        return SimpleNamespace(tools=[], next_cursor="more")

    @asynccontextmanager
    async def stuck(server):
        yield SimpleNamespace(list_tools=list_tools)
        await asyncio.Event().wait()

    monkeypatch.setattr(McpServer, "client", stuck)
    monkeypatch.setattr(mcp, "CONNECT_S", 0.2)
    monkeypatch.setattr(mcp, "CLOSE_S", 0.1)
    connection = Connection(McpServer("fake"))
    with pytest.raises(ToolFailure, match=r"\(fake\) did not list its tools in 0.2 s"):
        connection.offered()
    began = time.monotonic()
    connection.close()
    assert not connection.is_open and time.monotonic() - began < 5


def test_over_http(url):
    env = Desk(server=url)
    env.reset(seed=0)
    assert use(env, "add", a=20, b=22) == ("42", ToolStatus.OK)
    text, status = use(env, "fail", why="no")
    assert "no" in text and status is ToolStatus.ERROR
    *_, info = env.step(written("crash"))
    assert info["outcome"] is Outcome.INVALID and "was lost" in info["failure"].message
    env.close()


def test_choice_of_tools_and_variables():
    tools = mcp_tools(COMMAND, only=["variable"], env={"DESK": "oak"})
    env = Desk(tools=tools)
    env.reset(seed=0)
    assert list(env.tools) == ["variable"]
    assert use(env, "variable", name="DESK")[0] == "oak"
    env.close()
    with pytest.raises(ValueError, match=r"no tools \['subtract'\]; the server has add"):
        mcp_tools(COMMAND, only=["subtract"])


@pytest.mark.parametrize("server", ["no-such-command-here", "http://127.0.0.1:9/mcp"])
def test_a_server_that_is_not_there_is_named(server):
    with pytest.raises(ToolFailure, match=f"cannot reach the MCP server .{server}"):
        mcp_tools(server)
