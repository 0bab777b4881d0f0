"""What a served environment and its client do where the other side, or a neighbour, errs."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import serve as serve_socket

from palestra.envs.core import ChatEnv
from palestra.envs.episode import Reply
from palestra.envs.interop.openenv import OpenEnvChat, ServeLimits, serving
from palestra.envs.interop.openenv.http import Pages
from palestra.envs.interop.openenv.sessions import Sessions
from palestra.envs.interop.openenv.wire import Refused, Reset
from palestra.envs.types import Message, Task

TASKS = [Task("t", (Message("user", "Say"),), "x")]


class Slow(ChatEnv):
    """Answers once it may."""

    def __init__(self) -> None:
        super().__init__(tasks=TASKS)
        self.may_go = asyncio.Event()

    async def respond(self, action):
        await self.may_go.wait()
        return Reply((Message("user", "more"),), 0.5)


def in_loop(test):
    return lambda: asyncio.run(asyncio.wait_for(test(), 60))


def post(address: str, path: str, body: str) -> tuple[int, dict]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    connection.request("POST", path, body)
    response = connection.getresponse()
    return response.status, json.loads(response.read())


@in_loop
async def test_a_new_session_has_no_part_in_the_last_ones_episode():
    sessions = Sessions(Slow, ServeLimits())
    first = await sessions.open()
    first.reset(Reset())
    sessions.release(first)
    second = await sessions.open()
    assert second.env is first.env
    with pytest.raises(Refused, match=r"reset\(\) first"):
        await second.step(Message("assistant", "x"), 5)
    assert second.env._episode is None
    # Nor in one that the environment kept where its reset failed half way.
    second.env.reset()
    with pytest.raises(Refused, match="reset failed"):
        second.reset(Reset(task=9))
    with pytest.raises(Refused, match=r"reset\(\) first"):
        await second.step(Message("assistant", "x"), 5)


@in_loop
async def test_an_episode_at_a_step_keeps_its_name():
    sessions = Sessions(Slow, ServeLimits())
    pages = Pages(sessions, "n", "")
    assert (await pages.post("/reset", b'{"episode_id": "e"}'))[0] == 200
    env = sessions.named("e").env
    step = asyncio.create_task(pages.post("/step", b'{"episode_id": "e", "action": {}}'))
    await asyncio.sleep(0)
    status, said = await pages.post("/reset", b'{"episode_id": "e"}')
    assert status == 404 and "still at its last step" in said["detail"]
    assert sessions.active == 1
    env.may_go.set()
    assert (await step)[0] == 200
    assert (await pages.post("/reset", b'{"episode_id": "e"}'))[0] == 200
    sessions.close()


@in_loop
async def test_resets_at_a_time_with_one_name_leave_one_session():
    sessions = Sessions(Slow, ServeLimits())
    pages = Pages(sessions, "n", "")
    asked = (pages.post("/reset", b'{"episode_id": "e"}') for _ in range(4))
    assert [status for status, _ in await asyncio.gather(*asked)] == [200] * 4
    assert sessions.active == 1
    sessions.close()
    assert sessions.active == 0


@in_loop
async def test_a_step_that_outlives_the_sessions_touches_none():
    sessions = Sessions(Slow, ServeLimits())
    pages = Pages(sessions, "n", "")
    await pages.post("/reset", b'{"episode_id": "e"}')
    env = sessions.named("e").env
    step = asyncio.create_task(pages.post("/step", b'{"episode_id": "e", "action": {}}'))
    await asyncio.sleep(0)
    sessions.close()
    env.may_go.set()
    assert (await step)[0] == 500
    assert sessions.active == 0 and not sessions._timers


@in_loop
async def test_every_post_is_answered():
    async with serving(Slow, name="n") as address:
        for body in ("{", '{"seed": NaN}', '{"seed": 1e999}'):
            assert (await asyncio.to_thread(post, address, "/reset", body))[0] == 422
            assert (await asyncio.to_thread(post, address, "/step", body))[0] == 422

        async def fails(*args: object) -> None:
            raise KeyError("a bug")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Pages, "post", fails)
            status, said = await asyncio.to_thread(post, address, "/reset", "{}")
        assert status == 500 and "a bug" not in json.dumps(said)


@in_loop
async def test_a_client_that_left_is_no_error_of_the_server():
    failed: list[logging.LogRecord] = []
    log, handler = logging.getLogger("websockets.server"), logging.Handler(logging.ERROR)
    handler.emit = failed.append
    log.addHandler(handler)
    try:
        async with serving(Slow, name="n", limits=ServeLimits(step_s=0.2)) as address:
            socket = await connect(f"{address.replace('http', 'ws')}/ws")
            await socket.send('{"type": "reset"}')
            await socket.recv()
            await socket.send('{"type": "step", "data": {}}')
            await socket.close()
            await asyncio.sleep(0.5)
    finally:
        log.removeHandler(handler)
    assert not failed


@asynccontextmanager
async def foreign(*answers: dict):
    """A client of a server that gives these answers."""

    async def talk(connection) -> None:
        for answer in answers:
            await connection.recv()
            data = {"observation": {"text": "hi"}, **answer}
            await connection.send(json.dumps({"type": "observation", "data": data}))
        await connection.wait_closed()

    async with serve_socket(talk, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        env = OpenEnvChat(url=url, action="content")
        yield env
        await asyncio.to_thread(env.close)


@in_loop
async def test_an_end_without_a_reward_is_invalid_whatever_came_before():
    last = {"reward": None, "done": True}
    async with foreign({}, {"reward": 0.5}, last) as env:
        await asyncio.to_thread(env.reset)
        assert (await env.astep("a"))[1] == 0.5
        _, reward, _, cut, info = await env.astep("b")
        assert np.isnan(reward) and cut and "without a reward" in info["failure"].message


@in_loop
async def test_an_episode_that_ends_at_its_reset_is_refused():
    async with foreign({"done": True}) as env:
        with pytest.raises(ConnectionError, match="at its reset"):
            await asyncio.to_thread(env.reset)
