"""Invalid is not zero, from the killed sandbox to the advantage of its siblings."""

import asyncio
import os
import signal
import threading
import time

import palestra
from palestra.agents.agent import Agent
from palestra.agents.engines.scripted import ScriptedEngine
from palestra.agents.rollout import rollout
from palestra.envs.types import Group, Message, Outcome, Task
from palestra.sandbox import LocalSandbox
from palestra.trainers.advantages import group_advantages, shaped_rewards
from palestra.trainers.algorithms import ALGORITHMS, get_algorithm
from palestra.trainers.batching import build_batch
from palestra.trainers.scaling import tool_signal

TASK = Task("t", (Message("user", "What is 48 * 76?"),), "3648")


def episode(code: str, output: str, answer: str, sandbox: LocalSandbox):
    """One real rollout of a scripted agent that runs `code` and then answers."""
    script = f"```python\n{code}\n```\n```output\n{output}\n```\n\\boxed{{{answer}}}"
    env = palestra.make("palestra/MathCode-v0", sandbox=sandbox).unwrapped
    trajectory = asyncio.run(rollout(env, Agent(ScriptedEngine([script])), TASK))
    env.close()
    return trajectory


def kill_soon(sandbox: LocalSandbox) -> None:
    time.sleep(1.0)
    os.kill(sandbox.server_pid, signal.SIGKILL)


def test_a_killed_sandbox_changes_no_siblings_advantage():
    with LocalSandbox() as healthy, LocalSandbox() as doomed:
        siblings = [
            episode("print(48 * 76)", "3648", answer, healthy) for answer in ("3648", "1", "3648")
        ]
        doomed.open().close()  # its server is up
        killer = threading.Thread(target=kill_soon, args=(doomed,))
        killer.start()
        lost = episode("import time\ntime.sleep(8)", "", "3648", doomed)
        killer.join()
    assert [t.reward for t in siblings] == [1.0, 0.0, 1.0]
    assert lost.outcome is Outcome.INVALID and lost.reward is None
    assert lost.failure is not None and lost.failure.kind == "sandbox"
    assert len(lost.token_ids) > lost.prompt_length  # what it did is kept, for reading

    whole, torn = Group(TASK, tuple(siblings)), Group(TASK, (*siblings[:2], lost, siblings[2]))
    for name in ALGORITHMS:
        algorithm = get_algorithm(name)
        expected = group_advantages(shaped_rewards(whole, algorithm), algorithm)
        found = group_advantages(shaped_rewards(torn, algorithm), algorithm)
        assert [found[i] for i in (0, 1, 3)] == expected and found[2] == 0.0
        left, right = build_batch([whole], algorithm), build_batch([torn], algorithm)
        assert left.advantages.tobytes() == right.advantages.tobytes()
        assert left.token_ids.tobytes() == right.token_ids.tobytes()
    assert tool_signal([torn])["accuracy"] == tool_signal([whole])["accuracy"]
    assert tool_signal([torn])["invalid"] == 0.25
