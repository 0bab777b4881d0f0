"""Group rewards that an environment declares reach whoever collects its groups."""

import asyncio

from palestra.agents.agent import Agent
from palestra.agents.engines.scripted import ScriptedEngine
from palestra.agents.rollout import EnvPool, collect
from palestra.envs.core import ToolEnv
from palestra.envs.rewards.group import GroupRewards, distinct_answers
from palestra.envs.types import Message, Task

TASKS = [Task(f"t{i}", (Message("user", f"Say {i}."),), str(i)) for i in range(3)]


async def judged(group):
    await asyncio.sleep(0)
    return distinct_answers(group)


class Parrot(ToolEnv):
    """Pays 1; the third member of each group loses its verifier."""

    made = 0

    def __init__(self, extra=judged, lose=True):
        super().__init__(tasks=TASKS)
        self.lose = lose
        if extra is not None:
            self.group_rewards = GroupRewards({"novel": extra}, {"novel": 0.5})

    def grade(self, task, messages):
        Parrot.made += 1
        if self.lose and Parrot.made % 3 == 0:
            raise OSError("the verifier is gone")
        return 1.0


def collected(make_env, **options):
    Parrot.made = 0
    agent = Agent(ScriptedEngine(["the same"]))
    pool = EnvPool(make_env)
    try:
        return asyncio.run(collect(pool, agent, TASKS, group_size=3, concurrency=1, **options))
    finally:
        pool.close()


def test_rewards_of_the_group_are_added_and_invalid_members_left_out():
    heard = []
    groups = collected(Parrot, on_group=heard.append)
    assert [g.task.id for g in groups] == ["t0", "t1", "t2"] and heard == groups
    for group in groups:
        # Two valid members with one answer share the value 1: the third is not among them.
        assert [t.reward for t in group.trajectories] == [1.25, 1.25, None]
        assert [t.reward_parts.get("novel") for t in group.trajectories] == [0.5, 0.5, None]


def test_without_a_declaration_nothing_changes():
    for group in collected(lambda: Parrot(extra=None, lose=False)):
        assert [t.reward for t in group.trajectories] == [1.0, 1.0, 1.0]


def test_a_group_reward_that_fails_makes_members_invalid_and_never_zero():
    def broken(group):
        raise ZeroDivisionError("nobody there")

    for group in collected(lambda: Parrot(extra=broken, lose=False)):
        assert group.valid == ()
        assert all("nobody there" in t.failure.message for t in group.trajectories)
