"""The ways to step that `python scripts/bench/env_steps` compares, one a process.

Started as `ways.py NAME [ADDRESS SESSIONS]`; says that it is ready, then reads lines of
seconds and answers each with the steps that it made in that time: resets take time, and are no
steps.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from typing import Any

CHUNK = 200  # steps between two looks at the clock


def ours(name: str) -> Callable[[], None]:
    import games

    env: Any = getattr(games, name)()
    action = "I take \\boxed{7}."
    env.reset(seed=0)

    def step() -> None:
        _, _, ended, cut, _ = env.step(action)
        if ended or cut:
            env.reset()

    return step


def gem() -> Callable[[], None]:
    import gem

    env = gem.make("game:GuessTheNumber-v0-hard")
    env.reset(seed=0)

    def step() -> None:
        _, _, ended, cut, _ = env.step("I take \\boxed{7}.")
        if ended or cut:
            env.reset()

    return step


def textarena() -> Callable[[], None]:
    import textarena

    env = textarena.make("GuessTheNumber-v0")
    env.reset(num_players=1, seed=0)

    def step() -> None:
        env.get_observation()  # as every loop of its own does before a step
        done, _ = env.step("I take [7].")
        if done:
            env.close()
            env.reset(num_players=1, seed=0)

    return step


def openenv() -> Callable[[], None]:
    from peer_server import Echo, EchoAction

    env = Echo()
    env.reset()

    def step() -> None:
        if env.step(EchoAction(content="I take 7.")).done:
            env.reset()

    return step


IN_PROCESS: dict[str, Callable[[], Callable[[], None]]] = {
    "palestra echo": lambda: ours("Echo"),
    "palestra guess": lambda: ours("Guess"),
    "GEM guess": gem,
    "TextArena guess": textarena,
    "OpenEnv echo": openenv,
}


def in_process(step: Callable[[], None], seconds: float) -> tuple[int, float]:
    steps, start = 0, time.perf_counter()
    while (taken := time.perf_counter() - start) < seconds:
        for _ in range(CHUNK):
            step()
        steps += CHUNK
    return steps, taken


class Clock:
    """Runs from when all sessions are open."""

    def __init__(self, sessions: int, seconds: float) -> None:
        self.barrier = asyncio.Barrier(sessions)
        self.seconds = seconds
        self.start: float | None = None
        self.steps = 0

    async def open(self) -> None:
        await self.barrier.wait()
        self.start = self.start or time.perf_counter()

    def runs(self) -> bool:
        return self.taken() < self.seconds

    def taken(self) -> float:
        assert self.start is not None
        return time.perf_counter() - self.start


async def with_openenv(address: str, clock: Clock) -> None:
    from openenv.core.generic_client import GenericEnvClient

    async with GenericEnvClient(base_url=address) as client:
        await client.reset()
        await clock.open()
        while clock.runs():
            answer = await client.step({"content": "I take 7."})
            clock.steps += 1
            if answer.done:
                await client.reset()


async def with_websockets(address: str, clock: Clock) -> None:
    from websockets.asyncio.client import connect

    reset = '{"type": "reset"}'
    step = json.dumps({"type": "step", "data": {"content": "I take 7."}})
    async with connect(f"{address.replace('http', 'ws')}/ws", compression=None) as socket:
        await socket.send(reset)
        await socket.recv()
        await clock.open()
        while clock.runs():
            await socket.send(step)
            answer = json.loads(await socket.recv())
            clock.steps += 1
            if answer["data"]["done"]:
                await socket.send(reset)
                await socket.recv()


async def served(client: Any, address: str, sessions: int, seconds: float) -> tuple[int, float]:
    clock = Clock(sessions, seconds)
    await asyncio.gather(*(client(address, clock) for _ in range(sessions)))
    return clock.steps, clock.taken()


def main() -> None:
    name, *rest = sys.argv[1:]
    if name in IN_PROCESS:
        step = IN_PROCESS[name]()
        measure = lambda seconds: in_process(step, seconds)  # noqa: E731
    else:
        client = {"OpenEnv's client": with_openenv, "bare client": with_websockets}[name]
        address, sessions = rest[0], int(rest[1])
        measure = lambda seconds: asyncio.run(served(client, address, sessions, seconds))  # noqa: E731
        measure(0.1)  # imports
    print("ready", flush=True)
    for line in sys.stdin:
        steps, seconds = measure(float(line))
        print(json.dumps({"steps": steps, "seconds": seconds}), flush=True)


if __name__ == "__main__":
    main()
