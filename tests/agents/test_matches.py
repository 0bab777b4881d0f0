"""Games with seats: each side is a trajectory of its own, token for token."""

import asyncio
import math
import re
from contextlib import contextmanager
from dataclasses import replace

import pytest

import palestra
from palestra.agents.agent import Agent
from palestra.agents.engines.base import EngineError, SamplingParams
from palestra.agents.engines.scripted import ScriptedEngine
from palestra.agents.evaluation import evaluate
from palestra.agents.matches import OneSide, Seating, match, seat_tasks, self_play
from palestra.agents.rollout import EnvPool, RolloutLimits, collect
from palestra.envs.kuhn_poker import DEALS, FIRST, SECOND, prompt
from palestra.envs.types import FinishReason, StopReason


def kuhn(**options):
    return palestra.make("palestra/KuhnPoker-v0", **options).unwrapped


def agent(*replies, **options):
    return Agent(ScriptedEngine(list(replies)), **options)


def play(agents, cards=("K", "J"), **options):
    env = kuhn()
    task = env.tasks[DEALS.index(cards)]
    return asyncio.run(match(env, agents, task, **options))


def text_of(agent, trajectory, sampled):
    ids = [t for t, m in zip(trajectory.token_ids, trajectory.mask, strict=True) if m is sampled]
    return agent.engine.tokenizer.decode(ids)


def test_each_seat_has_its_own_tokens_and_reward():
    first, second = agent("I wait. [check]", "Now I know: [call]"), agent("Ha! [bet]")
    sides = play({FIRST: first, SECOND: second})
    assert {seat: t.reward for seat, t in sides.items()} == {FIRST: 2, SECOND: -2}
    assert [t.action.content for t in sides[FIRST].turns] == [
        "I wait. [check]",
        "Now I know: [call]",
    ]
    seen = text_of(first, sides[FIRST], False)
    assert prompt("K", "") in seen and prompt("K", "cb") in seen and "Ha!" not in seen
    assert prompt("J", "c") in text_of(second, sides[SECOND], False)
    assert re.findall(r"\[\w+\]", text_of(first, sides[FIRST], True)) == ["[check]", "[call]"]
    for side in sides.values():
        assert len(side.token_ids) == len(side.mask) == len(side.logprobs)
        assert side.correct is (side.reward > 0) and side.outcome == "valid"


def test_one_agent_may_play_every_seat():
    sides = play(agent("[bet]"), ("J", "Q"))  # second answers a bet with [bet]: not legal
    assert {seat: t.reward for seat, t in sides.items()} == {FIRST: 1, SECOND: -1}
    with pytest.raises(ValueError, match="an agent for each"):
        play({FIRST: agent("[bet]")})


def test_who_runs_out_of_tokens_forfeits_alone():
    wordy = agent("x" * 50 + "[check]", sampling=SamplingParams(max_tokens=10))
    sides = play({FIRST: agent("[bet]"), SECOND: wordy})
    assert sides[SECOND].stop_reason is StopReason.MAX_TOKENS
    assert sides[SECOND].outcome == "truncated" and sides[SECOND].reward == -1
    assert sides[FIRST].outcome == "valid" and sides[FIRST].reward == 1


def test_a_game_cut_by_its_turn_limit_is_truncated_for_all():
    sides = asyncio.run(match(kuhn(max_turns=1), agent("[bet]"), kuhn().tasks[0]))
    assert {t.stop_reason for t in sides.values()} == {StopReason.MAX_TURNS}
    assert {t.reward for t in sides.values()} == {0.0}


def test_a_lost_engine_makes_every_side_invalid():
    class Lost(ScriptedEngine):
        async def generate(self, prompt_ids, params):
            raise EngineError("gone")

    sides = play({FIRST: agent("[bet]"), SECOND: Agent(Lost(["x"]))})
    assert all(t.outcome == "invalid" and t.reward is None for t in sides.values())
    slow = agent("[bet]" * 9)
    slow.engine.token_s = 0.2
    sides = play(slow, limits=RolloutLimits(timeout_s=0.3))
    assert {t.stop_reason for t in sides.values()} == {StopReason.TIMEOUT}


def test_an_aborted_completion_is_nobodys_win():
    class Aborting(ScriptedEngine):
        async def generate(self, prompt_ids, params):
            made = await super().generate(prompt_ids, params)
            return replace(made, finish_reason=FinishReason.ABORT)

    sides = play({FIRST: Agent(Aborting(["[check]"])), SECOND: agent("[bet]")})
    assert {t.stop_reason for t in sides.values()} == {StopReason.ENGINE_ERROR}
    assert all(t.reward is None for t in sides.values())


def test_a_game_that_cannot_begin_is_invalid_for_every_side():
    env = kuhn()
    broken = replace(env.tasks[0], metadata={})
    sides = asyncio.run(match(env, agent("[bet]"), broken))
    assert all(t.reward is None and "KeyError" in t.failure.message for t in sides.values())


def test_self_play_groups_by_task_and_seat():
    noisy = Agent(ScriptedEngine(["[check]", "[call]"], probability=0.9))
    tasks = list(kuhn().tasks)
    groups = asyncio.run(self_play(EnvPool(kuhn), noisy, tasks, group_size=6, seed=5))
    again = asyncio.run(self_play(EnvPool(kuhn), noisy, tasks, group_size=6, seed=5, concurrency=2))
    assert [[t.token_ids for t in g.trajectories] for g in groups] == [
        [t.token_ids for t in g.trajectories] for g in again
    ]
    assert [g.task.id for g in groups[::2]] == [task.id for task in tasks]
    for group in groups:
        assert len({t.token_ids[: t.prompt_length] for t in group.trajectories}) <= 2
    only = asyncio.run(
        self_play(EnvPool(kuhn), noisy, tasks, group_size=2, learning=[SECOND], seed=5)
    )
    assert all(
        "checked" in text_of(noisy, g.trajectories[0], False)
        or "bet." in text_of(noisy, g.trajectories[0], False)
        for g in only
    )


def test_a_deal_that_comes_twice_is_played_anew():
    noisy = Agent(ScriptedEngine(["[check]", "[call]"], probability=0.6))
    tasks = [kuhn().tasks[0]] * 2
    groups = asyncio.run(self_play(EnvPool(kuhn), noisy, tasks, group_size=4, learning=[FIRST]))
    first, again = ([t.token_ids for t in g.trajectories] for g in groups)
    assert first != again and groups[0].task.metadata["seat"] == FIRST


def test_self_play_holds_an_episode_of_the_learner_for_each_game():
    class Counting(ScriptedEngine):
        live = most = 0

        @contextmanager
        def episode(self):
            self.live += 1
            self.most = max(self.most, self.live)
            yield
            self.live -= 1

    learner, other = Counting(["[bet]"]), Counting(["[call]"])
    agents = {FIRST: Agent(learner), SECOND: Agent(other)}
    tasks = list(kuhn().tasks)
    play = self_play(EnvPool(kuhn), agents, tasks, group_size=2, learning=[FIRST], concurrency=5)
    assert len(asyncio.run(play)) == len(tasks)
    assert (learner.most, learner.live, other.most) == (5, 0, 0)


def test_one_side_is_an_episode_of_the_seat_that_the_task_names():
    tasks = seat_tasks(list(kuhn().tasks), (FIRST, SECOND))
    assert [t.id for t in tasks[:2]] == ["kuhn/JQ/first", "kuhn/JQ/second"]
    bettor, caller = agent("[bet]"), agent("[call]")
    side = OneSide(dict.fromkeys((FIRST, SECOND), caller))
    groups = asyncio.run(collect(EnvPool(kuhn), bettor, tasks[:2], episode=side))
    first, second = (g.trajectories[0] for g in groups)
    # As first it bets and is called with the higher card; as second the other cannot open.
    assert (first.reward, second.reward) == (-2, 1)
    assert not second.num_sampled


def test_a_game_is_evaluated_from_each_seat_and_the_policy_measured():
    tasks = list(kuhn().tasks)
    result = asyncio.run(evaluate(EnvPool(kuhn), agent("[bet]", "[call]"), tasks, samples=2))
    assert len(result.rows) == 12 and result.num_samples == 24
    assert {row.seat for row in result.rows} == {FIRST, SECOND}
    # The other opens with [bet], and the [bet] that answers it is against the rules.
    assert result.estimates["score/first"].value == 1
    assert result.estimates["score/second"].value == -1
    assert result.score.value == 0
    assert math.isnan(result.estimates["exploitability"].low)
    caller = agent("[call]")
    met = asyncio.run(evaluate(EnvPool(kuhn), agent("[bet]"), tasks, opponents=caller))
    assert met.estimates["score/second"].value == 1  # [call] opens no game


def test_an_evaluation_of_a_game_resumes(tmp_path):
    tasks, pool = list(kuhn().tasks), EnvPool(kuhn)
    noisy = Agent(ScriptedEngine(["[check]", "[call]"], probability=0.9))
    whole = asyncio.run(evaluate(pool, noisy, tasks, samples=2, seed=3))
    asyncio.run(evaluate(pool, noisy, tasks[:4], samples=1, seed=3, folder=tmp_path))
    resumed = evaluate(pool, noisy, tasks, samples=2, seed=3, folder=tmp_path, resume=True)
    assert asyncio.run(resumed).rows == whole.rows


def test_opponents_need_a_game_and_leave_a_seat():
    with pytest.raises(ValueError, match="leave one of the seats"):
        Seating((FIRST, SECOND), {FIRST: agent("a"), SECOND: agent("b")})
    with pytest.raises(ValueError, match="leave one of the seats"):
        Seating((), {"third": agent("a")})
    chat = palestra.make("palestra/Rubric-v0").unwrapped
    with pytest.raises(ValueError, match="no game with seats"):
        asyncio.run(
            evaluate(EnvPool(lambda: chat), agent("a"), [chat.tasks[0]], opponents=agent("b"))
        )
