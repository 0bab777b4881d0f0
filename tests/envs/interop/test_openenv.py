"""OpenEnv's own client and validator against our server, and its own server played here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("openenv")
pytestmark = pytest.mark.interop

import uvicorn  # noqa: E402
from openenv.core.env_server import create_app  # noqa: E402
from openenv.core.env_server.interfaces import Environment  # noqa: E402
from openenv.core.env_server.types import Action, Observation, State  # noqa: E402
from openenv.core.generic_client import GenericEnvClient  # noqa: E402
from openenv.validation import Level, run_validation  # noqa: E402
from openenv.validation.types import CheckStatus, ProviderCapability  # noqa: E402

import palestra  # noqa: E402
from palestra.envs.interop.openenv import OpenEnvChat  # noqa: E402
from palestra.envs.types import Outcome  # noqa: E402

MATH = "palestra/MathCode-v0"
RUNTIME = {"startup", "reward_well_formed", "observation_schema", "state_contract"}


@contextmanager
def serving(*arguments: str):
    """`palestra serve` in a process of its own; its address."""
    command = [sys.executable, "-m", "palestra", "serve", *arguments, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().split()[-1]
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0


@pytest.fixture(scope="module")
def address():
    with serving(MATH, "--max-sessions", "8") as found:
        yield found


def openenv(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("openenv")), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_its_client_plays_an_episode(address):
    env = palestra.make(MATH).unwrapped
    opening, _ = env.reset(seed=3)
    with GenericEnvClient(base_url=address) as client:
        start = client.reset(seed=3)
        assert start.observation["messages"] == [m.to_dict() for m in opening]
        assert (start.reward, start.done) == (None, False)
        code = f"```python\nprint({env.task.reference} + 0)\n```"
        shown = client.step({"content": f"I compute it.\n{code}"})
        assert shown.observation["messages"][0]["content"].strip() == env.task.reference
        end = client.step({"content": f"\\boxed{{{env.task.reference}}}"})
        assert (end.reward, end.done, end.metadata["correct"]) == (1.0, True, True)
        assert client.state()["step_count"] == 2
    env.close()


def test_its_client_is_told_of_errors(address):
    with GenericEnvClient(base_url=address) as client:
        with pytest.raises(RuntimeError, match=r"reset\(\) first.*EXECUTION_ERROR"):
            client.step({"content": "before any reset"})
        client.reset()
        with pytest.raises(RuntimeError, match="VALIDATION_ERROR"):
            client.step({"message": "no such field"})


def test_its_clients_are_capped(address):
    clients = [GenericEnvClient(base_url=address).sync() for _ in range(9)]
    try:
        for client in clients[:8]:
            client.connect()
            client.reset()
        with pytest.raises(RuntimeError, match="all 8 sessions are taken"):
            clients[8].connect()
            clients[8].reset()
    finally:
        for client in clients:
            client.close()


def test_its_validator_passes_the_running_server(address):
    report = json.loads(openenv("validate", "--url", address, "--json").stdout)
    assert report["passed"], report
    assert report["summary"]["passed_count"] == report["summary"]["total_count"] == 6


class LocalProvider:
    """Runs the subject as a process here, where OpenEnv's own provider runs it in Docker."""

    name = "local-process"
    capabilities = frozenset({ProviderCapability.IMAGE_BUILD})
    supported_network_modes = frozenset({"public"})

    def build(self, root, execution):
        (last,) = [x for x in (root / execution.dockerfile).read_text().splitlines() if "CMD" in x]
        self.command = json.loads(last.removeprefix("CMD "))
        return "sha256:" + "0" * 64

    def start(self, spec):
        arguments = self.command[2 : self.command.index("--host")]
        self._serving = serving(*arguments)
        self.base_url = self._serving.__enter__()
        return self

    def inspect(self):
        return {}

    def stop(self):
        self._serving.__exit__(None, None, None)


@pytest.mark.parametrize(
    "settings", [(MATH,), (MATH, "--env.protocol", "hermes", "--env.task-options.digits", "3")]
)
def test_its_validator_passes_the_package(tmp_path, settings):
    folder = tmp_path / "package"
    command = [sys.executable, "-m", "palestra", "serve", *settings, "--package", str(folder)]
    subprocess.run(command, check=True, timeout=120)
    static = openenv("validate", str(folder), "--level", "static")
    assert static.returncode == 0 and "Verdict: PASS" in static.stdout, static.stdout
    # OpenEnv 0.10 names more runtime checks than it implements, and skips the rest: what it
    # does check must pass.
    report = run_validation(folder, max_level=Level.RUNTIME, provider=LocalProvider())
    said = {r.check_id.removeprefix("runtime."): (r.status, r.evidence) for r in report.results}
    assert {name for name, (status, _) in said.items() if status is CheckStatus.PASS} >= RUNTIME
    assert {status for status, _ in said.values()} <= {CheckStatus.PASS, CheckStatus.SKIP}, said


# The other way round: a server made of OpenEnv's own classes.


class EchoAction(Action):
    message: str


class EchoObservation(Observation):
    echoed_message: str
    message_length: int


class Echo(Environment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        super().__init__()
        self._state = State(episode_id="", step_count=0)

    def reset(self, seed=None, episode_id=None, **kwargs):
        self._state = State(episode_id=episode_id or "e", step_count=0)
        return EchoObservation(echoed_message=f"ready {seed}", message_length=0)

    def step(self, action, timeout_s=None, **kwargs):
        self._state.step_count += 1
        text = action.message
        if text == "raise":
            raise RuntimeError("the echo is broken")
        done = text in ("stop", "unpaid")
        reward = None if text == "unpaid" else len(text) * 0.25
        return EchoObservation(
            echoed_message=text, message_length=len(text), done=done, reward=reward
        )

    @property
    def state(self):
        return self._state


@contextmanager
def echo_server():
    app = create_app(Echo, EchoAction, EchoObservation, env_name="echo", max_concurrent_envs=64)
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}", server
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture(scope="module")
def echo():
    with echo_server() as (url, _):
        yield url


def test_its_server_is_played(echo):
    env = palestra.make("palestra/OpenEnv-v0", url=echo, success=1.0)
    opening, _ = env.reset(options={"task": 3})
    assert "ready 6" in opening[0].content
    observation, reward, *_ = env.step("hi")
    assert observation[0].content == "echoed_message: hi\nmessage_length: 2" and reward == 0.5
    _, reward, ended, _, info = env.step("stop")
    assert (reward, ended, info["correct"]) == (1.0, True, True)
    assert info["reward_parts"] == {"return": 1.5}
    env.close()


def test_its_actions_and_observations_can_be_mapped(echo):
    from palestra.envs.types import Message

    env = OpenEnvChat(
        url=echo,
        action=lambda message: {"message": message.content.upper()},
        read=lambda seen: [Message("user", seen["echoed_message"])],
        instructions="Say something.",
    )
    opening, _ = env.reset()
    assert opening[0] == Message("system", "Say something.")
    assert env.step("hi")[0] == [Message("user", "HI")]
    env.close()


@pytest.mark.parametrize("text", ["raise", "unpaid"])
def test_no_reward_is_invalid(echo, text):
    env = OpenEnvChat(url=echo)
    env.reset()
    _, reward, _, _, info = env.step(text)
    assert np.isnan(reward) and info["outcome"] is Outcome.INVALID
    env.reset()
    assert env.step("four")[1] == 1.0
    env.close()


def test_its_server_is_lost():
    with echo_server() as (url, server):
        env = OpenEnvChat(url=url)
        env.reset()
        assert env.step("hi")[1] == 0.5
        server.force_exit = True
    _, reward, _, _, info = env.step("hi")
    assert np.isnan(reward) and info["outcome"] is Outcome.INVALID
    env.close()


def test_all_of_it_is_one_command(echo):
    environment = dict(os.environ, NO_COLOR="1")
    command = [sys.executable, "-m", "palestra", "play", "palestra/OpenEnv-v0", "--env.url", echo]
    played = subprocess.run(
        command, input="stop\n\n", capture_output=True, text=True, env=environment, timeout=60
    )
    assert played.returncode == 0 and "reward 1" in played.stdout, played
