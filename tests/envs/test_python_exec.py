"""`palestra/PythonExec-v0` as an environment, with the real sandbox."""

import asyncio
import json
import os
import pickle
import signal
import time
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import palestra
from palestra.agents.agent import Agent
from palestra.agents.engines.base import SamplingParams
from palestra.agents.engines.scripted import ScriptedEngine
from palestra.agents.rollout import EnvPool, collect
from palestra.envs.python_exec.formats import Problem, example_tests, hidden_tests
from palestra.envs.rewards.unit_tests import Call, CheckTests, FunctionTests, StdioCase, StdioTests
from palestra.envs.types import Outcome, StopReason, ToolStatus
from palestra.sandbox import Limits, LocalSandbox

ID = "palestra/PythonExec-v0"


def add_tests(*triples):
    return FunctionTests("add", tuple(Call.of((a, b), c) for a, b, c in triples))


ADD = Problem(
    "Write add(a, b), the sum of two numbers.",
    add_tests((1, 2, 3), (0, 0, 0), (-5, 5, 0), (7013, 8, 7021)),
    add_tests((2, 2, 4), (1, 0, 1)),
).to_task("add", "train")
ECHO = Problem(
    "Read a line and print it twice.",
    StdioTests((StdioCase("ab\n", "ab\nab\n"), StdioCase("x y\n", "x y\nx y\n"))),
    StdioTests((StdioCase("q\n", "q\nq\n"),)),
).to_task("echo", "train")

RIGHT = "def add(a, b):\n    return a + b"
WRONG = "def add(a, b):\n    return a * b"
HALF = "def add(a, b):\n    return 0"  # right on two of the four hidden tests
TWICE = "line = input()\nprint(line)\nprint(line)"


def fenced(code):
    return f"```python\n{code}\n```"


def call(name, **arguments):
    return f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>"


@pytest.fixture(scope="module")
def sandbox():
    with LocalSandbox(preload=()) as box:  # starts in a moment
        yield box


@pytest.fixture
def make(sandbox):
    made = []

    def build(**options):
        made.append(palestra.make(ID, **{"tasks": [ADD, ECHO], "sandbox": sandbox, **options}))
        return made[-1]

    yield build
    for env in made:
        env.close()


def begin(env, task=ADD, seed=0):
    return env.reset(seed=seed, options={"task": task})


@pytest.mark.parametrize("protocol", ["fenced", "hermes"])
def test_gymnasium_accepts_it(protocol, sandbox):
    env = palestra.make(ID, protocol=protocol, sandbox=sandbox).unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)
    env.close()


@pytest.mark.parametrize("vector", ["sync", "async"])
def test_vector_environments(vector, sandbox):
    options = {} if vector == "sync" else {"vector_kwargs": {"shared_memory": False}}
    options["sandbox"] = sandbox
    envs = gymnasium.make_vec(ID, num_envs=2, vectorization_mode=vector, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, _ = envs.reset(seed=[3, 3])
        assert first[0] == first[1]
        observations, *_ = envs.step([fenced("print(6 * 7)")] * 2)
    assert [o[-1].content for o in observations] == ["42\n", "42\n"]
    envs.close()


def test_a_fenced_episode(make):
    env = make()
    opening, _ = begin(env)
    assert "hidden tests" in opening[0].content and "```python" in opening[0].content
    assert opening[-1].content == ADD.question
    text = env.step(fenced(WRONG))[0][0].content
    assert "Examples: 1 of 2 passed." in text and "add(1, 0) returned 0, expected 1" in text
    assert env.step(fenced(RIGHT))[0][0].content == "Examples: 2 of 2 passed.\n"
    _, reward, ended, cut, info = env.step("That is it.")
    assert (reward, ended, cut, info["correct"]) == (1.0, True, False, True)
    assert info["reward_parts"] == {"tests": 1.0} and env.tool_stats.calls == 2


def test_a_hermes_episode(make):
    env = make(protocol="hermes")
    opening, _ = begin(env)
    assert "`submit`" in opening[0].content
    assert [s["function"]["name"] for s in env.tool_schemas] == ["python", "submit"]
    assert "1 of 2 passed" in env.step(call("python", code=WRONG))[0][0].content
    assert env.step(f"<python>\n{RIGHT}\n</python>")[0][0].content.endswith("2 of 2 passed.\n")
    _, reward, ended, _, info = env.step(call("submit", code=RIGHT) + call("python", code="1"))
    assert (reward, ended, info["stop_reason"]) == (1.0, True, StopReason.COMPLETED)
    assert env.tool_stats.calls == 2  # handing in is no execution


@pytest.mark.parametrize(
    ("actions", "reward"),
    [
        ([fenced(RIGHT) + "\nDone."], 1),
        (["First\n" + fenced(WRONG) + "\nno, rather\n" + fenced(RIGHT) + "\nDone."], 1),
        ([fenced(RIGHT), "Done."], 1),
        ([fenced(RIGHT), fenced("print(add(1, 1))"), "Done."], 1),
        ([fenced(RIGHT), fenced(WRONG), "Done."], 0),
        ([fenced(RIGHT), fenced(WRONG) + "\nI prefer this."], 0),
        ([fenced("x = 1"), "Done."], 0),
        (["Done."], 0),
        ([""], 0),
        ([fenced("base = 1"), fenced("def add(a, b):\n    return a + b + base - 1"), "Done."], 0),
        (["```python\n" + RIGHT], 1),
    ],
)
def test_what_counts_as_the_submission(make, actions, reward):
    env = make()
    begin(env)
    for action in actions:
        last = env.step(action)
    assert last[1] == reward and last[2]


def test_partial_credit_is_an_option(make):
    for partial, reward in ((False, 0.0), (True, 0.5)):
        env = make(partial_credit=partial)
        begin(env)
        _, got, _, _, info = env.step(fenced(HALF) + "\nDone.")
        assert (got, info["correct"], info["reward_parts"]) == (reward, False, {"tests": reward})


def test_a_program_is_run_on_the_example_input(make):
    env = make()
    begin(env, ECHO)
    text = env.step(fenced("print(input())"))[0][0].content
    assert "0 of 1 passed" in text and r"printed 'q\n', expected 'q\nq\n'" in text
    assert "1 of 1 passed" in env.step(fenced(TWICE))[0][0].content
    assert env.step("Done.")[1] == 1.0


def test_the_tool_takes_an_input(make):
    env = make(protocol="hermes")
    begin(env, ECHO)
    text = env.step(call("python", code=TWICE, stdin="hi\n"))[0][0].content
    assert text == "hi\nhi\nExamples: 1 of 1 passed.\n"


def test_names_stay_defined_between_runs(make):
    env = make()
    begin(env)
    env.step(fenced("x = 20"))
    assert env.step(fenced("print(x)\nx + 1"))[0][0].content == "20\n21\n"


def test_errors_and_timeouts_are_observations(make):
    env = make(limits=Limits(wall_s=0.3))
    begin(env)
    observation, *_, info = env.step(fenced("1 / 0"))
    assert "ZeroDivisionError" in observation[0].content
    assert info["tool_results"][0].status is ToolStatus.ERROR
    observation, *_, info = env.step(fenced("while True: pass"))
    assert "Timed out (the limit is 0.3 s)" in observation[0].content
    assert info["tool_results"][0].status is ToolStatus.TIMEOUT
    observation, *_ = env.step(fenced("print('x' * 5000)"))
    assert observation[0].content == "Output too long (5001 characters). Print less."


def test_the_budgets(make):
    env = make(max_tool_calls=1, max_turns=3)
    begin(env)
    env.step(fenced(WRONG))
    assert not env.may_call
    _, reward, ended, _, _ = env.step(fenced(RIGHT))  # a block is text now: the submission
    assert (reward, ended, env.tool_stats.calls) == (1.0, True, 1)
    env = make(max_tool_calls=1, max_turns=3, protocol="hermes")
    begin(env)
    env.step(call("python", code="1"))
    observation, *_ = env.step(call("python", code="1"))
    assert "budget is used up" in observation[0].content
    assert env.step(call("submit", code=RIGHT))[1] == 1.0
    begin(env)
    for _ in range(3):
        last = env.step(call("python", code=RIGHT))
    assert last[1:4] == (0.0, False, True)
    assert last[4]["stop_reason"] is StopReason.MAX_TURNS


def test_a_malformed_submission_goes_back_to_the_agent(make):
    env = make(protocol="hermes", max_tool_calls=0)
    begin(env)
    observation, _, ended, cut, info = env.step(call("submit", program="x"))
    assert "bad arguments for submit" in observation[0].content and not (ended or cut)
    assert info["tool_results"][0].status is ToolStatus.MALFORMED
    assert env.step(call("submit", code=RIGHT))[1] == 1.0


def test_a_snapshot_forks_the_live_interpreter_and_keeps_the_last_program(make):
    env = make()
    begin(env)
    env.step(fenced(RIGHT))
    env.step(fenced("import random\nx = 1"))
    saved = env.snapshot()
    probe = fenced("x += 1\n(x, random.random())")
    first = env.step(probe)[0][0].content
    env.step(fenced(WRONG))
    assert env.step("Done.")[1] == 0.0
    for other in (env, make()):
        if other is not env:
            begin(other, ECHO)
        other.restore(saved)
        assert other.step(probe)[0][0].content == first
        assert other.step("Done.")[1] == 1.0


def test_a_killed_sandbox_is_invalid_never_zero():
    with LocalSandbox(preload=()) as own:
        env = palestra.make(ID, tasks=[ADD], sandbox=own)
        begin(env)
        env.step(fenced("1"))
        os.kill(own.server_pid, signal.SIGKILL)
        time.sleep(0.5)  # its sessions die with it
        _, reward, ended, cut, info = env.step(fenced("2"))
        assert np.isnan(reward) and (ended, cut) == (False, True)
        assert info["outcome"] is Outcome.INVALID and info["failure"].kind == "sandbox"
        begin(env)  # the next episode gets a new server
        assert env.step(fenced(RIGHT) + "\nDone.")[1] == 1.0
        env.close()


def test_a_grader_that_cannot_start_is_invalid():
    with LocalSandbox(preload=()) as own:
        env = palestra.make(ID, tasks=[ADD], sandbox=own)
        begin(env)
    _, reward, _, _, info = env.step(fenced(RIGHT) + "\nDone.")
    assert np.isnan(reward) and info["failure"].kind == "sandbox"


def test_a_check_at_fault_is_invalid_not_wrong(make):
    broken = CheckTests("add", "def check(candidate):\n    candidate(lambda: 1)")
    env = make()
    begin(env, Problem("p", broken).to_task("broken", "train"))
    _, reward, _, _, info = env.step(fenced(RIGHT) + "\nDone.")
    assert np.isnan(reward) and info["failure"].kind == "verifier"
    assert "plain data" in info["failure"].message


def test_it_pickles(sandbox):
    env = palestra.make(ID, tasks=[ADD], sandbox=sandbox)
    begin(env)
    twin = pickle.loads(pickle.dumps(env.unwrapped))
    begin(twin)
    assert "2 of 2" in twin.step(fenced(RIGHT))[0][0].content
    twin.close(), env.close()


def test_hidden_tests_are_not_in_what_the_agent_sees(make):
    env = make()
    opening, info = begin(env)
    shown = str(opening) + str(info) + str(env.step(fenced(WRONG)))
    assert "7013" not in shown and "7021" not in shown
    assert len(hidden_tests(ADD)) == 4 and len(example_tests(ADD)) == 2


def test_the_oracle_of_every_shipped_problem_ends_its_episode(make):
    for protocol in ("fenced", "hermes"):
        env = make(tasks="shipped", split="heldout", protocol=protocol)
        assert len(env.tasks) > 3
        for task in env.tasks:
            begin(env, task)
            (action,) = env.oracle(task)
            assert env.step(action)[1:3] == (1.0, True), task.id


@pytest.mark.parametrize(
    ("protocol", "replies"),
    [
        ("fenced", [fenced(RIGHT) + "\n```output\nExamples: 2 of 2 passed.\n```\nDone."]),
        ("hermes", [call("python", code=RIGHT), call("submit", code=RIGHT)]),
    ],
)
def test_agents_play_it_side_by_side(sandbox, protocol, replies):
    def build():
        return palestra.make(ID, tasks=[ADD], sandbox=sandbox, protocol=protocol).unwrapped

    async def play():
        agent = Agent(ScriptedEngine(replies), SamplingParams(max_tokens=400))
        return await collect(EnvPool(build), agent, [ADD] * 4, group_size=2, concurrency=4)

    played = [t for group in asyncio.run(play()) for t in group.trajectories]
    assert [(t.reward, t.tools.calls) for t in played] == [(1.0, 1)] * 8
