"""`palestra/MathCode-v0`, with the real sandbox and the real verifier."""

import os
import pickle
import re
import signal
import time
import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import palestra
from palestra.envs.checker import Status, Subject, audit
from palestra.envs.rewards.efficiency import per_call_price
from palestra.envs.tasks import load_tasks
from palestra.envs.types import Message, Outcome, Task, ToolStatus
from palestra.sandbox import Limits, LocalSandbox

TASK = Task("t", (Message("user", "What is 48 * 76?"),), "3648")


@pytest.fixture(scope="module")
def sandbox():
    with LocalSandbox() as box:
        yield box


@pytest.fixture
def env(sandbox):
    env = palestra.make("palestra/MathCode-v0", sandbox=sandbox)
    yield env
    env.close()


def fenced(code):
    return f"```python\n{code}\n```"


def begin(env, seed=0):
    return env.reset(seed=seed, options={"task": TASK})


def test_gymnasium_accepts_it():
    env = palestra.make("palestra/MathCode-v0").unwrapped
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env)
    env.close()


@pytest.mark.parametrize("vector", ["sync", "async"])
def test_vector_environments(vector):
    options = {} if vector == "sync" else {"vector_kwargs": {"shared_memory": False}}
    envs = gymnasium.make_vec(
        "palestra/MathCode-v0", num_envs=2, vectorization_mode=vector, **options
    )
    first, _ = envs.reset(seed=[3, 3])
    assert first[0] == first[1]
    observations, *_ = envs.step([fenced("print(6 * 7)")] * 2)
    assert [o[-1].content for o in observations] == ["42\n", "42\n"]
    envs.close()


def test_the_tool_keeps_its_state_and_the_answer_is_graded(env):
    opening, _ = begin(env)
    assert "\\boxed{}" in opening[0].content and opening[-1].content == TASK.question
    observation, _, _, _, info = env.step(fenced("x = 48 * 76"))
    assert (observation[0].content, info["tool_results"][0].status) == ("", ToolStatus.OK)
    assert env.step(fenced("print(x)\nx + 1"))[0][0].content == "3648\n3649\n"
    _, reward, ended, _, info = env.step("It is \\boxed{3648}.")
    assert (reward, ended, info["correct"]) == (1.0, True, True)
    assert info["reward_parts"] == {"answer": 1.0}


@pytest.mark.parametrize(
    ("answer", "reward"),
    [("\\boxed{3,648}", 1), ("\\boxed{7296/2}", 1), ("\\boxed{3647}", 0), ("", 0), ("48 * 76", 0)],
)
def test_grading(env, answer, reward):
    begin(env)
    assert env.step(answer)[1] == reward


def graded(task, answer):
    env = palestra.make("palestra/MathCode-v0", tasks=[task]).unwrapped
    env.reset(seed=0, options={"task": task})
    return env.step(answer)[1]


def test_reasoning_gym_answers_are_judged_by_their_family():
    pytest.importorskip("reasoning_gym")
    numbers = load_tasks("rg:countdown", size=1)[0]
    expression = numbers.reference
    assert graded(numbers, f"\\boxed{{{expression}}}") == 1
    assert graded(numbers, f"\\boxed{{({expression})}}") == 1  # right, though not the reference
    assert graded(numbers, f"\\boxed{{{numbers.metadata['entry']['metadata']['target']}}}") == 0
    letters = load_tasks("rg:spell_backward", size=9)[3]
    turned = letters.reference[::-1]
    assert turned != letters.reference
    assert graded(letters, f"\\boxed{{{letters.reference}}}") == 1
    assert graded(letters, f"\\boxed{{{turned}}}") == 0  # no product of the same letters
    total = load_tasks("rg:products", size=1, min_digits=3, max_digits=3)[0]
    assert graded(total, f"\\boxed{{{int(total.reference):,}}}") == 1  # a number is its value
    assert graded(total, f"\\boxed{{{int(total.reference) + 1}}}") == 0
    colours = load_tasks("rg:graph_color", size=1)[0]
    assert colours.reference == "" and graded(colours, "\\boxed{{}}") == 0


def test_reasoning_gym_families_are_one_mixture():
    pytest.importorskip("reasoning_gym")
    options = {
        "sources": {"arithmetic": 2, "rg:gcd": 1, "rg:spell_backward": 1},
        "source_options": {"rg:gcd": {"level": 1}},
        "size": 40,
    }

    def made(**changes):
        changes = {"tasks": "mixture", "task_options": options} | changes
        return palestra.make("palestra/MathCode-v0", **changes).unwrapped

    kinds = [task.metadata.get("family", "arithmetic") for task in list(made().tasks)[:40]]
    assert [kinds.count(k) for k in ("arithmetic", "gcd", "spell_backward")] == [20, 10, 10]
    found = list(audit(Subject(made, tasks=8), only=["oracle", "floor", "verdict", "splits"]))
    assert {f.check: f.detail for f in found if f.status is not Status.PASS} == {}


def test_errors_and_timeouts_are_observations(env):
    begin(env)
    observation, _, _, _, info = env.step(fenced("1 / 0"))
    assert "ZeroDivisionError" in observation[0].content
    assert info["tool_results"][0].status is ToolStatus.ERROR
    quick = palestra.make("palestra/MathCode-v0", limits=Limits(wall_s=0.3), sandbox=env._sandbox)
    begin(quick)
    observation, _, _, _, info = quick.step(fenced("while True: pass"))
    assert info["tool_results"][0].status is ToolStatus.TIMEOUT
    assert "Timed out (the limit is 0.3 s)" in observation[0].content
    begin(quick)
    flood = fenced("print('x' * 5000, flush=True)\nwhile True: pass")
    assert len(quick.step(flood)[0][0].content) < 200
    quick.close()


def test_long_output_is_replaced_by_a_notice(env):
    begin(env)
    text = env.step(fenced("print('x' * 5000)"))[0][0].content
    assert text == "Output too long (5001 characters). Print less."


def test_after_the_cap_a_block_is_text(env):
    begin(env)
    env.step(fenced("1"))
    env.step(fenced("2"))
    assert not env.may_call
    _, reward, ended, _, _ = env.step(fenced("3") + "\n```output\n3\n```\n\\boxed{3648}")
    assert (reward, ended) == (1.0, True)
    assert (env.tool_stats.calls, env.tool_stats.hallucinated) == (2, 1)


def test_worked_examples_come_before_the_problem(sandbox):
    examples = [["What is 1 + 1?", "```python\nprint(1 + 1)\n```\n```output\n2\n```\n\\boxed{2}"]]
    env = palestra.make("palestra/MathCode-v0", examples=examples, sandbox=sandbox)
    roles = [m.role for m in begin(env)[0]]
    assert roles == ["system", "user", "assistant", "user"]
    env.close()


def test_hermes_calls(sandbox):
    env = palestra.make("palestra/MathCode-v0", protocol="hermes", sandbox=sandbox)
    begin(env)
    call = '<tool_call>{"name": "python", "arguments": {"code": "48 * 76"}}</tool_call>'
    assert env.step(call)[0][0].content == "3648\n"
    env.close()


def test_without_the_tool_a_block_is_an_answer(sandbox):
    env = palestra.make("palestra/MathCode-v0", tool=False, sandbox=sandbox)
    begin(env)
    assert env.step(fenced("print(1)"))[2] and env.tool_stats.calls == 0
    assert env.tool_schemas == []


def test_a_snapshot_forks_the_live_interpreter(env):
    begin(env)
    env.step(fenced("import random\nx = 1\nit = iter(range(10)); next(it)"))
    saved = env.snapshot()
    probe = fenced("x += 1\n(x, next(it), random.random())")
    first = env.step(probe)[0][0].content
    assert first.startswith("(2, 1, ")
    for _ in range(2):
        env.restore(saved)
        assert env.step(probe)[0][0].content == first
    other = palestra.make("palestra/MathCode-v0", sandbox=env._sandbox)
    other.reset(seed=1)
    other.restore(saved)
    assert other.step(probe)[0][0].content == first
    other.close()


def test_a_killed_sandbox_is_invalid_never_zero():
    with LocalSandbox() as own:
        env = palestra.make("palestra/MathCode-v0", sandbox=own)
        begin(env)
        env.step(fenced("1"))
        os.kill(own.server_pid, signal.SIGKILL)
        time.sleep(0.5)  # its sessions die with it
        _, reward, ended, cut, info = env.step(fenced("2"))
        assert np.isnan(reward) and (ended, cut) == (False, True)
        assert info["outcome"] is Outcome.INVALID and info["failure"].kind == "sandbox"
        begin(env)  # the next episode gets a new server
        assert env.step(fenced("6 * 7"))[0][0].content == "42\n"
        env.close()


def test_calls_have_no_price_unless_asked(env):
    assert env.unwrapped.reward_range == (0.0, 1.0)
    begin(env)
    assert env.step(fenced("1"))[1] == 0.0
    _, reward, *_, info = env.step("\\boxed{3648}")
    assert (reward, info["reward_parts"]) == (1.0, {"answer": 1.0})


PRICED = {"call_price": 0.05, "free_calls": 1, "max_tool_calls": 3}


def priced(sandbox, actions, **options):
    """Rewards of an episode's steps, and the last info."""
    env = palestra.make("palestra/MathCode-v0", sandbox=sandbox, **PRICED | options)
    begin(env)
    steps = [env.step(action) for action in actions]
    env.close()
    low, high = env.unwrapped.reward_range
    assert low <= sum(step[1] for step in steps) <= high
    return [step[1] for step in steps], steps[-1][-1]


@pytest.mark.parametrize(("answer", "score"), [("\\boxed{3648}", 1.0), ("no idea", 0.0)])
def test_every_call_beyond_the_free_ones_is_charged_when_it_is_made(sandbox, answer, score):
    rewards, info = priced(sandbox, [fenced("1")] * 3 + [answer])
    assert rewards == pytest.approx([0.0, -0.05, -0.05, score])
    assert info["reward_parts"] == {"answer": score, "calls": pytest.approx(-0.1)}
    assert info["correct"] is bool(score)
    assert sum(rewards) == pytest.approx(per_call_price(score, 3, price=0.05, free_calls=1))


def test_running_out_of_turns_is_no_way_around_the_price(sandbox):
    rewards, info = priced(sandbox, [fenced("1")] * 3, max_turns=3)
    assert sum(rewards) == pytest.approx(-0.1) and info["outcome"] is Outcome.TRUNCATED
    assert info["reward_parts"] == {"calls": pytest.approx(-0.1)}
    env = palestra.make("palestra/MathCode-v0", sandbox=sandbox, **PRICED).unwrapped
    assert env.cut_off(-0.05) == -0.05  # as a wrong answer then would


def test_only_calls_that_ran_are_charged(sandbox):
    call = '<tool_call>{"name": "python", "arguments": {"code": "1"}}</tool_call>'
    bad = '<tool_call>{"name": "python", "arguments": {}}</tool_call>'
    options = {"protocol": "hermes", "free_calls": 0, "max_tool_calls": 2}
    rewards, _ = priced(sandbox, [bad, f"{call}\n{call}\n{call}", "\\boxed{3648}"], **options)
    assert rewards == pytest.approx([0.0, -0.1, 1.0])
    env = palestra.make("palestra/MathCode-v0", sandbox=sandbox, **PRICED | options)
    assert env.unwrapped.reward_range == (-0.1, 1.0)


def test_a_price_branches_with_its_episode(sandbox):
    env = palestra.make("palestra/MathCode-v0", sandbox=sandbox, **PRICED | {"free_calls": 0})
    begin(env)
    env.step(fenced("1"))
    saved = env.unwrapped.snapshot()
    for _ in range(2):
        assert env.step(fenced("1"))[1] == pytest.approx(-0.05)
        assert env.step("\\boxed{3648}")[-1]["reward_parts"]["calls"] == pytest.approx(-0.1)
        env.unwrapped.restore(saved)
    env.close()


def test_a_price_needs_a_cap_and_must_not_be_negative(sandbox):
    with pytest.raises(ValueError, match="needs max_tool_calls"):
        palestra.make("palestra/MathCode-v0", call_price=0.1, max_tool_calls=None)
    with pytest.raises(ValueError, match="must not be negative"):
        palestra.make("palestra/MathCode-v0", call_price=-0.1)
    with pytest.raises(ValueError, match="must not be negative"):
        palestra.make("palestra/MathCode-v0", free_calls=-1)


def test_the_audit_holds_with_a_price():
    def made(**changes):
        return palestra.make("palestra/MathCode-v0", **PRICED | changes).unwrapped

    checks = ["oracle", "floor", "range", "verdict", "snapshot"]
    found = list(audit(Subject(made, tasks=3), only=checks))
    assert {f.check: f.detail for f in found if f.status is not Status.PASS} == {}


def test_it_pickles(env):
    begin(env)
    twin = pickle.loads(pickle.dumps(palestra.make("palestra/MathCode-v0").unwrapped))
    begin(twin)
    assert twin.step(fenced("6 * 7"))[0][0].content == "42\n"
    twin.close()


def test_an_unknown_id_names_the_nearest():
    with pytest.raises(LookupError, match=r"Did you mean palestra/MathCode-v0\?"):
        palestra.make("palestra/MathsCode-v0")
    with pytest.raises(LookupError, match="palestra list"):
        palestra.make("nothing/Like-v3")


def test_registering_a_third_party_environment():
    palestra.register("team/Mine-v0", "palestra.envs.math_code:MathCode", protocol="hermes")
    palestra.register("team/Mine-v0", "palestra.envs.math_code:MathCode", protocol="hermes")
    assert palestra.make("team/Mine-v0").unwrapped.protocol.name == "hermes"
    with pytest.raises(ValueError, match="registered already"):
        palestra.register("team/Mine-v0", "palestra.envs.core:ToolEnv")
    with pytest.raises(ValueError, match="needs a version"):
        palestra.register("team/Mine", "palestra.envs.core:ToolEnv")


def test_limits_may_come_from_a_recipe(sandbox):
    env = palestra.make("palestra/MathCode-v0", sandbox=sandbox, limits={"wall_s": 0.3}).unwrapped
    assert env.limits == Limits(wall_s=0.3)
    begin(env)
    assert "Timed out (the limit is 0.3 s)" in env.step(fenced("while True: pass"))[0][0].content
    env.close()
    with pytest.raises(ValueError, match=r"no limits \['wall'\]; there are wall_s"):
        palestra.make("palestra/MathCode-v0", limits={"wall": 1})


@pytest.mark.parametrize("source", ["arithmetic", "rg:chain_sum"])
def test_the_question_is_no_answer(source):
    """To be worked out by the agent, not by the grader."""
    env = palestra.make("palestra/MathCode-v0", tasks=source).unwrapped
    for index in range(5):
        observation, _ = env.reset(options={"task": index})
        asked = re.search(r"\d[-+*\d ]*\d", observation[-1].content)[0]
        assert env.step(rf"\boxed{{{asked}}}")[1] == 0.0
        env.reset(options={"task": index})
        assert env.step(rf"\boxed{{{asked} = {env.task.reference}}}")[1] == 1.0
