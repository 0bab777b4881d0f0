"""Palestra environments served, and played from there again, without OpenEnv's own package."""

from __future__ import annotations

import asyncio
import http.client
import json
import pickle
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from palestra.agents.rollout import MakeEnv
from palestra.envs.core import ChatEnv, ToolEnv
from palestra.envs.episode import Reply
from palestra.envs.interop.openenv import OpenEnvChat, ServeLimits, serving
from palestra.envs.interop.openenv.client import shown
from palestra.envs.kuhn_poker import KuhnPoker
from palestra.envs.types import Invalid, Message, Outcome, StopReason, Task, ToolCall
from palestra.sandbox.types import SandboxError

TASKS = [Task(f"t{i}", (Message("user", f"Say {i}"),), str(i)) for i in range(5)]


def double(x: int) -> int:
    """Twice x.

    Args:
        x: a number
    """
    return 2 * x


class Say(ToolEnv):
    made = 0

    def __init__(self, **kwargs):
        type(self).made += 1
        super().__init__(**{"tasks": TASKS, "tools": [double], **kwargs})

    async def grade(self, task, messages):
        text = messages[-1].content
        if text == "wait":
            await asyncio.sleep(3600)
        if text == "break":
            raise SandboxError("the box is gone")
        return float(text == task.reference)


class Count(ChatEnv):
    """Each session counts for itself."""

    def respond(self, action):
        self.episode.memory = (self.episode.memory or 0) + 1
        return Reply((Message("user", str(self.episode.memory)),), 0.5)


def served(make: MakeEnv = Say, **limits):
    return serving(make, name="tests/Say-v0", description="say it", limits=ServeLimits(**limits))


@asynccontextmanager
async def client(address: str):
    async with connect(f"{address.replace('http', 'ws')}/ws") as socket:

        async def ask(type: str, data: object = None, raw: str | None = None) -> dict:
            frame = {"type": type} if data is None else {"type": type, "data": data}
            await socket.send(raw if raw is not None else json.dumps(frame))
            return json.loads(await socket.recv())

        ask.socket = socket
        yield ask


def in_loop(test):
    """Run an async test with a fresh loop."""
    return lambda: asyncio.run(asyncio.wait_for(test(), 60))


def request(address: str, method: str, path: str, body: object = None, **headers: str):
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=30)
    text = body if isinstance(body, str | None) else json.dumps(body)
    connection.request(method, path, text, headers)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


@in_loop
async def test_an_episode():
    async with served() as address, client(address) as ask:
        opening = (await ask("reset", {"seed": 1, "task": 3, "episode_id": "mine"}))["data"]
        assert opening["observation"]["messages"] == [{"role": "user", "content": "Say 3"}]
        assert (opening["reward"], opening["done"]) == (None, False)
        assert opening["metadata"]["tools"][0]["function"]["name"] == "double"
        call = {"id": "1", "function": {"name": "double", "arguments": '{"x": 4}'}}
        told = (await ask("step", {"content": "", "tool_calls": [call]}))["data"]
        assert told["observation"]["messages"][0]["content"] == "8"
        end = (await ask("step", {"content": "3"}))["data"]
        assert (end["reward"], end["done"]) == (1.0, True)
        assert end["metadata"]["outcome"] == "valid" and end["metadata"]["correct"] is True
        state = (await ask("state"))["data"]
        assert state == {"episode_id": "mine", "step_count": 2, "task_id": "t3", "done": True}


@in_loop
async def test_the_answer_is_nowhere_on_the_wire():
    secret = Task("t", (Message("user", "?"),), "the-reference")
    async with served(lambda: Say(tasks=[secret])) as address, client(address) as ask:
        said = [await ask("reset", {}), await ask("state"), await ask("step", {"content": "x"})]
        assert "the-reference" not in json.dumps(said)


@in_loop
async def test_sessions_do_not_meet():
    async def play(address: str, steps: int) -> list[str]:
        async with client(address) as ask:
            await ask("reset", {})
            answers = [await ask("step", {"content": "x"}) for _ in range(steps)]
            return [a["data"]["observation"]["messages"][0]["content"] for a in answers]

    async with served(lambda: Count(tasks=TASKS, max_turns=1000)) as address:
        played = await asyncio.gather(*(play(address, 1 + n % 7) for n in range(60)))
    assert played == [[str(i + 1) for i in range(1 + n % 7)] for n in range(60)]


@in_loop
async def test_environments_are_used_again_and_sessions_are_capped():
    Say.made = 0
    async with served(max_sessions=2) as address:
        for _ in range(3):
            async with client(address) as first, client(address) as second:
                await first("reset", {}), await second("reset", {})
                async with connect(f"{address.replace('http', 'ws')}/ws") as third:
                    refused = json.loads(await third.recv())
                    assert refused["data"]["code"] == "CAPACITY_REACHED"
                    assert refused["data"]["max_sessions"] == 2
                    with pytest.raises(ConnectionClosed):
                        await third.recv()
            await free(address)
    assert Say.made == 2


async def free(address: str) -> None:
    """Wait until a session that was left is closed on the other side too."""
    for _ in range(500):
        async with connect(f"{address.replace('http', 'ws')}/ws") as socket:
            await socket.send('{"type": "reset"}')
            if json.loads(await socket.recv())["type"] == "observation":
                return
        await asyncio.sleep(0.01)
    raise AssertionError("no session became free")


@in_loop
async def test_what_is_wrong_is_said_and_the_session_goes_on():
    async with served() as address, client(address) as ask:
        cases = {
            "INVALID_JSON": await ask("", raw="{"),
            "UNKNOWN_TYPE": await ask("jump"),
            "VALIDATION_ERROR": await ask("step", {"text": "x"}),
            "EXECUTION_ERROR": await ask("step", {"content": "before any reset"}),
        }
        assert {code: answer["data"]["code"] for code, answer in cases.items()} == {
            code: code for code in cases
        }
        assert "text" in cases["VALIDATION_ERROR"]["data"]["message"]
        assert "reset() first" in cases["EXECUTION_ERROR"]["data"]["message"]
        assert "task" in (await ask("reset", {"tasks": 1}))["data"]["message"]
        assert "reset failed" in (await ask("reset", {"task": 99}))["data"]["message"]
        assert (await ask("reset", {}))["type"] == "observation"


@in_loop
async def test_an_invalid_episode_has_no_reward():
    async with served() as address, client(address) as ask:
        await ask("reset", {})
        answer = await ask("step", {"content": "break"})
        assert answer["type"] == "error" and "reward" not in json.dumps(answer)
        assert answer["data"]["failure"] == {"kind": "sandbox", "message": "the box is gone"}
        again = await ask("step", {"content": "0"})
        assert again["data"]["code"] == "EXECUTION_ERROR"
        assert (await ask("reset", {"task": 0}))["type"] == "observation"
        assert (await ask("step", {"content": "0"}))["data"]["reward"] == 1.0


@in_loop
async def test_limits_end_a_session():
    async with served(step_s=0.2) as address, client(address) as ask:
        await ask("reset", {})
        answer = await ask("step", {"content": "wait"})
        assert answer["data"]["code"] == "EXECUTION_ERROR" and "0.2 s" in answer["data"]["message"]
        with pytest.raises(ConnectionClosed):
            await ask("state")
    async with served(idle_s=0.2) as address, client(address) as ask:
        last = json.loads(await ask.socket.recv())
        assert last["data"]["code"] == "SESSION_ERROR" and "0.2 s" in last["data"]["message"]
    async with served(max_message_bytes=1000) as address, client(address) as ask:
        await ask("reset", {})
        with pytest.raises(ConnectionClosed) as closed:
            await ask("step", {"content": "x" * 2000})
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 1009


@in_loop
async def test_shutting_down_does_not_wait_for_a_step():
    env = Say()
    async with served(lambda: env) as address:
        socket = await connect(f"{address.replace('http', 'ws')}/ws")
        await socket.send('{"type": "reset"}')
        await socket.recv()
        await socket.send('{"type": "step", "data": {"content": "wait"}}')
        while not env.episode.num_turns:
            await asyncio.sleep(0.01)
    assert env.abandoned


@in_loop
async def test_plain_http():
    async with served() as address:

        def talk(*args, **headers):
            return asyncio.to_thread(request, address, *args, **headers)

        assert await talk("GET", "/health") == (200, {"status": "healthy"})
        assert (await talk("GET", "/metadata"))[1]["description"] == "say it"
        assert "messages" in (await talk("GET", "/schema"))[1]["observation"]["properties"]
        assert (await talk("GET", "/nowhere"))[0] == 404
        status, opening = await talk("POST", "/reset", {"task": 2, "episode_id": "e"})
        assert status == 200 and opening["metadata"]["task_id"] == "t2"
        state = (await talk("GET", "/state?episode_id=e"))[1]
        assert state["task_id"] == "t2" and state["step_count"] == 0
        step = {"episode_id": "e", "action": {"content": "2"}}
        assert (await talk("POST", "/step", step))[1]["reward"] == 1.0
        assert (await talk("POST", "/step", step))[0] == 404  # over, and its session given back
        tools = await talk("POST", "/mcp", {"jsonrpc": "2.0", "method": "tools/list", "id": 1})
        assert tools[1]["result"]["tools"][0]["inputSchema"]["required"] == ["x"]
        assert (await talk("POST", "/mcp", {}))[1]["error"]["code"] == -32600
        assert (await talk("POST", "/step", {"episode_id": "e"}))[0] == 422


@in_loop
async def test_plain_http_refuses():
    async with served(max_message_bytes=1000, idle_s=0.2) as address:

        def talk(*args, **headers):
            return asyncio.to_thread(request, address, *args, **headers)

        assert (await talk("POST", "/reset", "x" * 2000))[0] == 413
        assert (await talk("POST", "/reset", "{}", Origin="http://evil.example"))[0] == 403
        assert (await talk("PUT", "/reset", "{}"))[0] == 405
        assert (await talk("POST", "/reset", "{}", **{"X-Long": "x" * 70_000}))[0] == 431
        await talk("POST", "/reset", {"episode_id": "idle"})
        while (await talk("GET", "/state?episode_id=idle"))[0] != 404:
            await asyncio.sleep(0.05)


@in_loop
async def test_seats_are_named():
    async with served(KuhnPoker) as address, client(address) as ask:
        opening = (await ask("reset", {"seed": 0}))["data"]
        second = (await ask("step", {"content": "[check]"}))["data"]
        assert opening["metadata"]["seat"] != second["metadata"]["seat"]


# Played from the server again.


@asynccontextmanager
async def remote(make: MakeEnv = Say, limits: dict | None = None, **options):
    async with served(make, **(limits or {})) as address:
        env = await asyncio.to_thread(OpenEnvChat, url=address, **options)
        try:
            yield env
        finally:
            await asyncio.to_thread(env.close)


@in_loop
async def test_there_and_back():
    async with remote() as env:
        opening, _ = await asyncio.to_thread(env.reset, options={"task": 1})
        assert opening[0].role == "system" and "<tools>" in opening[0].content
        calls = (ToolCall("double", '{"x": 21}', "a"),)
        messages, *_ = await env.astep(Message("assistant", "", calls))
        assert [m.content for m in messages] == ["42"]
        reference = opening[-1].content.removeprefix("Say ")
        _, reward, ended, _, info = await env.astep(reference)
        assert (reward, ended, info["correct"]) == (1.0, True, True)


@in_loop
async def test_a_seed_is_an_episode():
    async with remote() as env:
        openings = [
            (await asyncio.to_thread(env.reset, options={"task": task}))[0]
            for task in (0, 1, 2, 3, 0, 1, 2, 3)
        ]
        assert openings[:4] == openings[4:] and len({str(o) for o in openings}) > 1


@in_loop
async def test_a_truncated_episode_stays_one():
    async with remote(lambda: Count(tasks=TASKS, max_turns=2)) as env:
        await asyncio.to_thread(env.reset)
        await env.astep("a")
        _, reward, ended, cut, info = await env.astep("b")
        assert (reward, ended, cut) == (0.5, False, True)
        assert info["stop_reason"] is StopReason.MAX_TURNS


@in_loop
async def test_a_failure_over_there_is_invalid_here():
    async with remote() as env:
        await asyncio.to_thread(env.reset)
        _, reward, _, cut, info = await env.astep("break")
        assert np.isnan(reward) and cut and info["outcome"] is Outcome.INVALID
        assert "the box is gone" in info["failure"].message
        await asyncio.to_thread(env.reset)  # and the next episode is played


@in_loop
async def test_a_lost_server_is_invalid():
    async with served() as address:
        env = await asyncio.to_thread(OpenEnvChat, url=address)
        await asyncio.to_thread(env.reset)
    _, reward, _, _, info = await env.astep("0")
    assert np.isnan(reward) and isinstance(info["failure"], Invalid)
    with pytest.raises(ConnectionError):
        await asyncio.to_thread(env.reset)


@in_loop
async def test_a_slow_answer_is_invalid_and_no_answer_to_the_next():
    async with remote(timeout_s=0.2) as env:
        await asyncio.to_thread(env.reset)
        *_, info = await env.astep("wait")
        assert "0.2 s" in info["failure"].message
        await asyncio.to_thread(env.reset, options={"task": 0})
        assert (await env.astep("no"))[1] == 0.0


@in_loop
async def test_a_copy_has_a_session_of_its_own():
    async with remote(lambda: Count(tasks=TASKS)) as env:
        await asyncio.to_thread(env.reset)
        await env.astep("a")
        twin = pickle.loads(pickle.dumps(env))
        await asyncio.to_thread(twin.reset)
        assert (await twin.astep("a"))[0][0].content == "1"
        assert (await env.astep("a"))[0][0].content == "2"
        await asyncio.to_thread(twin.close)
        with pytest.raises(TypeError, match="branched"):
            env.snapshot()


def test_no_server():
    with pytest.raises(ConnectionError, match="no OpenEnv server answers"):
        OpenEnvChat(url="http://127.0.0.1:9")


def test_observations_as_text():
    assert shown({"messages": [{"role": "assistant", "content": "me"}]}) == ()
    assert shown({"echoed": "hi", "metadata": {"x": 1}}) == (Message("user", "hi"),)
    assert (
        shown({"board": [0, 1], "turn": "x", "none": None})[0].content == "board: [0, 1]\nturn: x"
    )
