"""A thousand episodes that wait on tools share one process, whatever kind of tool."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

from palestra.agents.agent import Agent
from palestra.agents.engines.scripted import ScriptedEngine
from palestra.agents.rollout import EnvPool, collect
from palestra.envs import tools
from palestra.envs.core import ToolEnv
from palestra.envs.types import Message, Task


class Fetching(ToolEnv):
    def grade(self, task, messages):
        return 1.0


ONCE = '<tool_call>{"name": "fetch", "arguments": {"key": "k"}}</tool_call>'


def all_at_once(make_tool, episodes=1100):
    """Play so many episodes whose tool returns only once all of them are in it."""
    tasks = [Task(f"t{i}", (Message("user", f"Fetch {i}."),)) for i in range(episodes)]

    async def collected():
        tool = make_tool(episodes)
        pool = EnvPool(lambda: Fetching(tasks=tasks, tools=[tool]))
        agent = Agent(ScriptedEngine([ONCE, "Done."]))
        return await collect(pool, agent, tasks, concurrency=episodes)

    members = [t for group in asyncio.run(collected()) for t in group.trajectories]
    assert [t.tools.ok for t in members] == [1] * episodes
    assert all(t.reward == 1.0 for t in members)


def test_a_thousand_async_tools_wait_at_the_same_time():
    def make(episodes):
        arrived, everybody = [], asyncio.Event()

        async def fetch(key: str) -> str:
            """Fetch.

            Args:
                key: what
            """
            arrived.append(key)
            if len(arrived) == episodes:
                everybody.set()
            await everybody.wait()
            return "v"

        return fetch

    all_at_once(make)


def test_a_thousand_plain_tools_wait_at_the_same_time_in_threads():
    def make(episodes):
        everybody = threading.Barrier(episodes, timeout=100)  # only ends a test that hangs

        def fetch(key: str) -> str:
            """Fetch.

            Args:
                key: what
            """
            everybody.wait()
            return "v"

        return fetch

    all_at_once(make)


def test_no_thread_left_is_an_invalid_episode_and_no_tool_error(monkeypatch):
    def full(self):
        raise RuntimeError("can't start new thread")

    def fetch(key: str) -> str:
        """Fetch.

        Args:
            key: what
        """
        return "v"

    monkeypatch.setattr(tools, "_threads", ThreadPoolExecutor)
    monkeypatch.setattr(threading.Thread, "start", full)
    env = Fetching(tasks=[Task("t", (Message("user", "?"),))], tools=[fetch])
    env.reset()
    *_, info = asyncio.run(env.astep(ONCE))
    assert info["failure"].kind == "tool" and "start new thread" in info["failure"].message
