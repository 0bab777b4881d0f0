"""Gymnasium's own text environments, played in chat."""

from __future__ import annotations

import random
import re
import threading

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import palestra
from palestra.envs.checker import Status, Subject, audit
from palestra.envs.interop.gymnasium import GymnasiumText, plain

TOYS = ("FrozenLake-v1", "Taxi-v4", "Blackjack-v1", "CliffWalking-v1")


class Shout(gymnasium.Env):
    """Say a word, and it is shouted back.

    ## Description
    Say STOP to end.

    ## Version History
    Not for players.
    """

    action_space = spaces.Text(8)
    observation_space = spaces.Text(8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        random.random(), np.random.random()  # what many environments do
        return "begin", {}

    def step(self, action):
        noise = random.random()
        return f"{action.upper()}{noise:.2f}"[:8], 0.5, action == "STOP", False, {}


gymnasium.register("tests/Shout-v0", Shout, max_episode_steps=5)


@pytest.mark.parametrize("name", TOYS[1:])  # the first is the default, audited as all ids are
def test_toy_text_passes_the_audit(name):
    def make(**changes):
        return palestra.make("palestra/Gymnasium-v0", name=name, **changes).unwrapped

    findings = list(audit(Subject(make, tasks=3, episodes=5)))
    assert {f.check: f.detail for f in findings if f.status is Status.FAIL} == {}


@pytest.mark.parametrize("name", TOYS)
def test_an_episode_is_the_foreign_episode(name):
    env = GymnasiumText(name=name)
    env.reset(options={"task": 3})
    seed = env.task.metadata["seed"]
    foreign = gymnasium.make(name)
    foreign.reset(seed=seed)
    choices = np.random.default_rng(0).integers(int(foreign.action_space.n), size=60)
    for choice in choices:
        theirs = foreign.step(choice)
        ours = env.step(f"I take [{choice}]")
        assert ours[1] == theirs[1] and ours[2] == theirs[2]
        if theirs[2]:
            break
    assert ours[2] == theirs[2]


def test_frozen_lake_is_crossed_by_name():
    env = GymnasiumText(
        options={"is_slippery": False},
        actions=["left", "down", "right", "up"],
        name="FrozenLake-v1",
    )
    observation, _ = env.reset(seed=0)
    text = observation[0].content
    assert text.endswith("[S]FFF\nFHFH\nFFFH\nHFFG") and "[left], [down], [right], [up]" in text
    assert "Reach goal: +1" in text and "Version History" not in text
    for move in ("down", "down", "Right", "right", "DOWN"):
        observation, reward, ended, *_ = env.step(f"not [up] but [{move}]")
        assert (reward, ended) == (0.0, False)
    *_, reward, ended, truncated, info = env.step("[right]")
    assert (reward, ended, truncated, info["correct"]) == (1.0, True, False, True)
    assert info["reward_parts"] == {"return": 1.0}


@pytest.mark.parametrize("text", ["go down", "[4]", "[-1]", "", "[north]", "[0] or [5]", "[0\n]"])
def test_an_illegal_reply_is_told_so_and_one_of_the_legal_actions_is_played(text):
    env = GymnasiumText(
        name="FrozenLake-v1",
        options={"is_slippery": False},
        actions=["left", "down", "right", "up"],
    )
    reached = {"left": "[S]", "up": "[S]", "down": "\n[F]HFH", "right": "S[F]FF"}
    seen = set()
    for seed in range(12):
        env.reset(seed=seed)
        observation, reward, ended, truncated, _ = env.step(text)
        notice, board = observation[0].content.split("\n\n")
        played = re.search(r"no legal action in your reply, so \[(\w+)\] was played", notice)[1]
        assert "[left], [down], [right], [up]" in notice and reached[played] in f"\n{board}"
        assert (reward, ended, truncated) == (0.0, False, False)
        seen.add(played)
    assert len(seen) > 2


def total(env, seed, reply):
    """What an episode pays; `reply` may depend on the number of the turn."""
    env.reset(seed=seed, options={"task": seed})
    earned = 0.0
    for turn in range(env.max_turns):
        _, reward, ended, truncated, info = env.step(reply(turn))
        earned += reward
        if ended or truncated:
            return earned, info
    raise AssertionError("no end")


@pytest.mark.parametrize("name", ["Taxi-v4", "CliffWalking-v1", "MountainCar-v0"])
def test_not_to_act_is_no_cheaper_than_to_act(name):
    env = GymnasiumText(name=name, max_turns=60)
    refused = [total(env, seed, lambda turn: "hm")[0] for seed in range(5)]
    harmless = [total(env, seed, lambda turn: "[0]")[0] for seed in range(5)]
    assert max(refused) <= -60 == min(harmless)
    assert refused == [total(env, seed, lambda turn: "hm")[0] for seed in range(5)]
    env.reset(seed=3)
    env.step("hm")
    point = env.snapshot()
    ends = [[env.step("hm")[:2] for _ in range(5)] for _ in (0, 1) if env.restore(point) is None]
    assert ends[0] == ends[1]


def test_not_to_act_is_not_paid():
    env = GymnasiumText(name="CartPole-v1", success=1.0)
    earned, info = total(env, 0, lambda turn: "hm")
    assert (earned, info["correct"], info["reward_parts"]) == (0.0, False, {"return": 0.0})
    assert total(env, 0, lambda turn: f"[{turn % 2}]")[0] > 10


def test_a_budget_that_ends_an_episode_early_may_cost():
    env = GymnasiumText(name="MountainCar-v0", truncated_reward=-200)
    assert env.cut_off(-3.0) == -203.0
    env = GymnasiumText(name="MountainCar-v0", reward_range=(-200, 0))
    assert env.cut_off(-3.0) == -200.0


def test_the_foreign_limit_truncates():
    env = GymnasiumText(name="tests/Shout-v0")
    assert env.max_turns == 5
    env.reset(seed=0)
    for _ in range(4):
        assert env.step("hm")[3] is False
    *_, ended, truncated, info = env.step("hm")
    assert (ended, truncated, info["stop_reason"]) == (False, True, "max_turns")


def test_lasting_until_the_limit_may_be_the_success():
    env = GymnasiumText(name="tests/Shout-v0", success=2.5)
    env.reset(seed=0)
    for _ in range(4):
        env.step("hm")
    *_, ended, truncated, info = env.step("hm")
    assert (ended, truncated, info["correct"]) == (True, False, True)
    assert info["reward_parts"] == {"return": 2.5}


def test_text_actions_and_observations_are_taken_as_they_are():
    env = GymnasiumText(name=f"{__name__}:tests/Shout-v0")
    observation, _ = env.reset(seed=0)
    assert observation[0].content.endswith("begin") and "Say STOP" in observation[0].content
    assert "Not for players" not in observation[0].content
    assert env.step("hello")[0][0].content.startswith("HELLO0.")
    assert "no legal action" in env.step("far too long")[0][0].content
    assert env.step("STOP")[2]


def test_global_random_numbers_are_the_episodes_own():
    def played(env):
        env.reset(options={"task": 1})
        return [env.step("a")[0][0].content for _ in range(3)]

    one, other = GymnasiumText(name="tests/Shout-v0"), GymnasiumText(name="tests/Shout-v0")
    random.seed(1), np.random.seed(1)
    before = random.getstate(), np.random.get_state()[1].tolist()
    expected = played(one)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before
    random.seed(2)
    assert played(other) == expected
    one.reset(options={"task": 1})
    one.step("a")
    point = one.snapshot()
    for _ in range(2):
        one.restore(point)
        assert [one.step("a")[0][0].content for _ in range(2)] == expected[1:]


def test_what_cannot_be_copied_says_so():
    env = GymnasiumText(name="tests/Shout-v0")
    env.reset(seed=0)
    env.foreign.unwrapped.lock = threading.Lock()
    with pytest.raises(TypeError, match=r"cannot be copied, so its episodes cannot be branched"):
        env.snapshot()


def test_colours_become_text():
    coloured = "|\x1b[35mR\x1b[0m|\x1b[43m \x1b[0m|\x1b[34;1mB\x1b[0m|\n"
    assert plain(coloured) == "|R|[ ]|B|\nmagenta: R\nblue: B"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "FrozenLak-v1"}, r"Did you mean: `FrozenLake`"),
        ({"name": "Pendulum-v1"}, "must be Discrete or Text"),
        ({"name": "FrozenLake-v1", "actions": ["left"]}, "a name for each of 4"),
        ({"name": "tests/Shout-v0", "actions": ["left"]}, "are text"),
    ],
)
def test_mistakes_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        GymnasiumText(**settings)
