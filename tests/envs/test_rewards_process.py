"""Monte-Carlo values of steps against exact ones, in real environments that are really branched."""

import asyncio
import math
import random
from itertools import pairwise

import pytest

import palestra
from palestra.envs.core import ChatEnv
from palestra.envs.episode import Reply
from palestra.envs.rewards.process import (
    StepValue,
    find_first_error,
    progress,
    solution_score,
    state_value,
    step_values,
)
from palestra.envs.types import Message, StopReason, Task
from palestra.sandbox import LocalSandbox, SandboxError

TASK = Task("t", (Message("user", "Walk."),), "")


class Walk(ChatEnv):
    """Stand on 0..goal; "up" rises with a chance, anything else falls by one; the top wins,
    the ground ends it. "doom" lowers the chance to nothing for the rest of the episode."""

    def __init__(self, *, goal=4, chance=0.7, max_turns=100, trouble=0.0):
        super().__init__(tasks=[TASK], max_turns=max_turns)
        self.goal, self.chance, self.trouble = goal, chance, trouble

    def begin(self, task):
        self.episode.memory = {"at": 2, "doomed": False}
        return task.prompt

    def respond(self, action):
        memory = self.episode.memory
        if self.np_random.random() < self.trouble:
            raise SandboxError("lost")
        if action.content == "doom":
            memory["doomed"] = True
            return Reply()
        if action.content == "look":
            return Reply()
        chance = 0.0 if memory["doomed"] else self.chance
        memory["at"] += 1 if self.np_random.random() < chance else -1
        if memory["at"] in (0, self.goal):
            won = memory["at"] == self.goal
            return Reply((), float(won), StopReason.COMPLETED, correct=won)
        return Reply((Message("user", str(memory["at"])),))


def ruin(at, goal=4, chance=0.7):
    """The gambler's exact chance to reach the goal before 0."""
    r = (1 - chance) / chance
    return (1 - r**at) / (1 - r**goal)


def walker(env):
    return "up"


def close_to(value, exact, n, sigmas=4):
    return abs(value - exact) < sigmas * math.sqrt(exact * (1 - exact) / n) + 1e-9


def test_values_of_states_are_the_markov_chains():
    envs, n = [Walk(), Walk(), Walk()], 900
    for at in (1, 2, 3):
        envs[0].reset(seed=0)
        envs[0].episode.memory["at"] = at
        point = envs[0].snapshot()
        value = asyncio.run(state_value(envs, point, walker, completions=n, seed=at))
        assert len(value.returns) == n and value.invalid == 0
        assert close_to(value.soft, ruin(at), n)
        assert value.mean_return == value.soft and value.hard is True
        assert value.stderr == pytest.approx(math.sqrt(ruin(at) * (1 - ruin(at)) / n), rel=0.2)


def test_hard_labels_follow_one_minus_all_failing():
    env, point_at, n = Walk(chance=0.3), 1, 4
    env.reset(seed=0)
    env.episode.memory["at"] = point_at
    point = env.snapshot()
    labels = [
        asyncio.run(state_value([env], point, walker, completions=n, seed=seed)).hard
        for seed in range(400)
    ]
    exact = 1 - (1 - ruin(1, chance=0.3)) ** n
    assert close_to(sum(labels) / 400, exact, 400)


def test_a_seed_repeats_and_environments_do_not_matter():
    env = Walk()
    env.reset(seed=0)
    point = env.snapshot()
    alone = asyncio.run(state_value([env], point, walker, completions=30, seed=5))
    again = asyncio.run(state_value([env], point, walker, completions=30, seed=5))
    many = asyncio.run(
        state_value([Walk() for _ in range(4)], point, walker, completions=30, seed=5)
    )
    assert alone == again and many.successes == alone.successes
    other = asyncio.run(state_value([env], point, walker, completions=30, seed=6))
    assert other.returns != alone.returns


def test_lost_episodes_count_for_nothing():
    env, n = Walk(trouble=0.2), 300
    env.reset(seed=0)
    point = env.snapshot()
    value = asyncio.run(state_value([env], point, walker, completions=n))
    assert value.invalid > 50 and len(value.returns) + value.invalid == n
    assert value.soft > 0.5  # an episode lost half way is no failure
    lost = asyncio.run(state_value([Walk(trouble=1.0)], point, walker, completions=3))
    assert lost == StepValue((), 0, 3)
    assert (lost.soft, lost.hard, lost.mean_return, lost.stderr) == (None,) * 4


def test_the_values_along_an_episode():
    envs = [Walk(), Walk()]
    actions = ["look", "doom", "look", "up", "up"]
    values = asyncio.run(step_values(envs, TASK, actions, walker, completions=300))
    soft = [v.soft for v in values]
    assert close_to(soft[0], ruin(2), 300) and close_to(soft[1], ruin(2), 300)
    assert soft[2:] == [0.0, 0.0, 0.0, 0.0]
    assert values[-1] == StepValue((0.0,), 0)  # the outcome itself: nothing was played
    assert [v.hard for v in values] == [True, True, False, False, False, False]
    gains = progress(soft)
    assert sum(gains) == pytest.approx(soft[-1] - soft[0]) and min(gains) == gains[1]


@pytest.mark.parametrize("at", range(12))
def test_the_search_finds_the_planted_error_with_fewer_episodes(at):
    actions = ["look"] * 12 + ["up", "up"]
    actions[at] = "doom"
    found = asyncio.run(find_first_error([Walk()], TASK, actions, walker, completions=30, seed=at))
    assert found.first_error == at
    assert len(found.values) <= 1 + math.ceil(math.log2(14))
    full = 30 * 14
    assert found.episodes < full / 2
    assert all(value.hard == (taken <= at) for taken, value in found.values.items())


def test_searches_without_an_error_to_find():
    won = asyncio.run(find_first_error([Walk(chance=1.0)], TASK, ["up", "up"], walker))
    assert won.first_error is None and won.values == {}
    hopeless = asyncio.run(find_first_error([Walk(chance=0.0)], TASK, ["up", "up"], walker))
    assert hopeless.first_error is None and list(hopeless.values) == [0]
    with pytest.raises(ValueError, match="not over"):
        asyncio.run(find_first_error([Walk()], TASK, ["look"], walker))
    with pytest.raises(ValueError, match="ended after 2 of 3"):
        asyncio.run(step_values([Walk(chance=1.0)], TASK, ["up"] * 3, walker))
    with pytest.raises(RuntimeError, match="were lost"):
        envs = [Walk(chance=0.0)]
        envs[0].trouble = 0.0

        def breaks(env):
            env.trouble = 1.0
            return "up"

        asyncio.run(find_first_error(envs, TASK, ["up", "up"], breaks))
    with pytest.raises(RuntimeError, match="the replayed episode was lost"):
        asyncio.run(find_first_error([Walk(trouble=1.0)], TASK, ["up"], walker))
    with pytest.raises(ValueError, match="need an environment"):
        asyncio.run(state_value([], None, walker))


def test_a_policy_may_be_async_and_sees_the_conversation():
    seen = []

    async def policy(env):
        await asyncio.sleep(0)
        seen.append(env.messages[-1].content)
        return Message("assistant", "up")

    env = Walk(chance=1.0)
    env.reset(seed=0)
    value = asyncio.run(state_value([env], env.snapshot(), policy, completions=1))
    assert value.soft == 1.0 and seen == ["Walk.", "3"]


# With a live interpreter: the value lies in what its names hold, not in the text alone.

PRODUCT = Task("p", (Message("user", "What is 48 * 76?"),), "3648")


def block(code):
    return f"```python\n{code}\n```"


def reader(chance, seed):
    """Prints x in the live interpreter, then answers what it printed; slips now and then."""
    draw = random.Random(seed)

    def policy(env):
        last = env.messages[-1]
        if last.role != "tool" or not last.content.strip().isdecimal():
            return block("print(x)")
        slip = draw.random() >= chance
        return f"It is \\boxed{{{int(last.content) + slip}}}."

    return policy


def test_branched_interpreters_give_the_closed_form():
    chance, n = 0.75, 24
    actions = [
        block("a = 48"),
        block("x = a * 76"),
        block("x = x + 1"),  # the error
        block("y = x"),
        "It is \\boxed{3649}.",
    ]
    with LocalSandbox() as sandbox:
        envs = [
            palestra.make(
                "palestra/MathCode-v0", sandbox=sandbox, max_tool_calls=None, max_turns=9
            ).unwrapped
            for _ in range(2)
        ]
        envs[0].reset(seed=0, options={"task": PRODUCT})
        envs[0].step(actions[0])
        envs[0].step(actions[1])
        good = envs[0].snapshot()
        envs[0].step(actions[2])
        bad = envs[0].snapshot()
        for point, exact in ((good, chance), (bad, 0.0)):
            value = asyncio.run(state_value(envs, point, reader(chance, 1), completions=n))
            assert value.invalid == 0 and close_to(value.soft, exact, n)
            point.resources.close()
        found = asyncio.run(
            find_first_error(envs, PRODUCT, actions[1:], reader(1.0, 2), completions=2)
        )
        # Without a = 48 nothing can be printed: the start itself is out of reach.
        assert found.first_error is None
        policy = reader(1.0, 3)

        def from_scratch(env):
            if env.episode.num_turns == 0:
                return block("x = 48 * 76")
            return policy(env)

        found = asyncio.run(find_first_error(envs, PRODUCT, actions, from_scratch, completions=2))
        assert found.first_error == 2
        for env in envs:
            env.close()


def test_scores_of_solutions_depend_on_the_labels():
    steps = [0.9, 0.5, 0.8]
    assert solution_score(steps, "last") == 0.8
    assert solution_score(steps, "min") == 0.5
    assert solution_score(steps, "product") == pytest.approx(0.36)
    for bad in (([], "last"), (steps, "mean")):
        with pytest.raises(ValueError, match="need steps"):
            solution_score(*bad)
    assert progress([0.2, 0.7, 1.0]) == pytest.approx([b - a for a, b in pairwise([0.2, 0.7, 1.0])])
