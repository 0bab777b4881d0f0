"""An echo served with OpenEnv's own classes; prints its address."""

from __future__ import annotations

import socket

import uvicorn
from openenv.core.env_server import create_app
from openenv.core.env_server.interfaces import Environment
from openenv.core.env_server.types import Action, Observation, State


class EchoAction(Action):
    content: str


class EchoObservation(Observation):
    messages: list[dict[str, str]]


class Echo(Environment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._state = State(episode_id="", step_count=0)

    def reset(self, seed: int | None = None, **_: object) -> EchoObservation:
        self._state = State(episode_id="", step_count=0)
        return EchoObservation(messages=[{"role": "user", "content": "Begin."}])

    def step(self, action: EchoAction, **_: object) -> EchoObservation:
        self._state.step_count += 1
        done = self._state.step_count >= 7
        said = {"role": "user", "content": action.content}
        return EchoObservation(messages=[said], done=done, reward=0.0)

    @property
    def state(self) -> State:
        return self._state


if __name__ == "__main__":
    app = create_app(Echo, EchoAction, EchoObservation, env_name="echo", max_concurrent_envs=256)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
        uvicorn.run(app, fd=listening.fileno(), log_level="error", ws_ping_interval=None)
