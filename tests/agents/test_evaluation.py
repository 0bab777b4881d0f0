"""Evaluation from end to end with a scripted engine, and what its results say."""

import asyncio
import io
import json
import math
from dataclasses import replace
from statistics import fmean

import pytest
from rich.console import Console

from palestra.agents.agent import Agent
from palestra.agents.engines.base import EngineError, SamplingParams
from palestra.agents.engines.scripted import ScriptedEngine
from palestra.agents.evaluation import (
    EvalResult,
    compare,
    difference_table,
    evaluate,
    read_samples,
    results_table,
    stop_reasons,
    tasks_table,
)
from palestra.agents.evaluation.statistics import mean_interval, wilson
from palestra.agents.rollout import EnvPool, RolloutLimits, collect, rollout_group
from palestra.agents.runlog import plain
from palestra.envs.core import ToolEnv
from palestra.envs.rewards.group import GroupRewards, distinct_answers
from palestra.envs.types import (
    Group,
    Invalid,
    Message,
    StopReason,
    Task,
    ToolStats,
    Trajectory,
)


def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The first.
        b: The second.
    """
    return a + b


class Sums(ToolEnv):
    def grade(self, task, messages):
        if "breakdown" in messages[0].content:
            raise RuntimeError("the verifier broke")
        return float(task.reference in messages[-1].content)


TASKS = [Task(f"sum-{i}", (Message("user", f"What is {i} + {i}?"),), str(2 * i)) for i in range(5)]
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 1}}\n</tool_call>'


def pool(tasks=TASKS):
    return EnvPool(lambda: Sums(tasks=tasks, tools=[add]))


def agent(replies=(CALL, "It is 2 or 4."), **options):
    return Agent(ScriptedEngine(list(replies), **options), SamplingParams(max_tokens=200))


def run(tasks=TASKS, *, by=None, **options):
    return asyncio.run(evaluate(pool(tasks), by or agent(), tasks, **options))


def response(reward, correct, stop=StopReason.COMPLETED, *, calls=0, ok=0, sampled=2):
    return Trajectory(
        task_id="t",
        env_id="palestra/Test-v0",
        token_ids=(0,) * (sampled + 2),
        mask=(False,) + (True,) * sampled + (False,),
        logprobs=(0.0,) * (sampled + 2),
        prompt_length=1,
        turns=(),
        stop_reason=stop,
        reward=reward,
        correct=correct,
        failure=Invalid("env") if reward is None else None,
        tools=ToolStats(calls=calls, ok=ok),
    )


def result_of(*tasks, name="test"):
    groups = [
        Group(Task(f"t{i}", (Message("user", "?"),)), tuple(members))
        for i, members in enumerate(tasks)
    ]
    return EvalResult.of_groups(groups, name=name)


RIGHT, WRONG = response(1.0, True, calls=2, ok=1), response(0.0, False, sampled=4)
BROKEN = response(None, None, StopReason.ENV_ERROR, calls=9, ok=9, sampled=90)
CUT = response(0.0, False, StopReason.MAX_TOKENS)


def test_result_by_hand():
    result = result_of((RIGHT, WRONG), (WRONG, CUT), (RIGHT, BROKEN))
    e = result.estimates
    assert e["score"] == e["accuracy"] == mean_interval([[1, 0], [0, 0], [1]], proportion=True)
    assert e["accuracy"].value == pytest.approx(1.5 / 3)
    assert e["pass@2"].value == pytest.approx(1 / 2)  # the third task has one valid sample
    assert e["pass@2"].count == 2
    assert e["tool_share"].value == pytest.approx(1.5 / 3)
    assert e["calls"].value == pytest.approx((1 + 0 + 2) / 3)
    assert e["pass_ratio"].value == 1 / 2
    assert e["model_tokens"].value == pytest.approx((3 + 3 + 2) / 3)
    assert e["tool_tokens"].value == 1
    assert e["truncated"].value == pytest.approx(0.5 / 3)
    assert e["invalid"].value == pytest.approx(0.5 / 3)
    assert stop_reasons(result) == {"completed": 4, "max_tokens": 1, "env_error": 1}
    assert result.num_samples == 6


def test_invalid_samples_leave_the_score_alone():
    clean, broken = result_of((RIGHT, WRONG), (RIGHT,)), result_of((RIGHT, WRONG, BROKEN), (RIGHT,))
    assert {k for k in clean.estimates if clean.estimates[k] != broken.estimates[k]} == {"invalid"}
    nothing = result_of((BROKEN,), (BROKEN,))
    assert math.isnan(nothing.score.value)
    assert nothing.estimates["invalid"] == wilson(2, 2)
    assert "accuracy" not in nothing.estimates


def test_counts_and_shaped_rewards_are_no_proportions():
    once = response(1.0, True, calls=1, ok=1)
    e = result_of((once,), (once,), (once,)).estimates
    assert e["tool_share"] == e["score"] == wilson(3, 3)
    assert e["calls"].value == 1 and math.isnan(e["calls"].high)
    shaped = result_of((response(1.0, False),), (response(1.0, True),)).estimates
    assert math.isnan(shaped["score"].low)
    assert shaped["accuracy"] == wilson(1, 2)


def test_without_a_verifier_there_is_no_accuracy():
    result = result_of((response(0.3, None),), (response(0.9, None),))
    assert "accuracy" not in result.estimates
    assert result.score.value == pytest.approx(0.6)


def test_result_round_trips_through_json():
    result = result_of((RIGHT, WRONG), (WRONG, CUT), (RIGHT, BROKEN))
    again = EvalResult.from_dict(json.loads(json.dumps(plain(result.to_dict()), allow_nan=False)))
    assert again.rows == result.rows
    assert str(again.estimates) == str(result.estimates)  # NaN bounds compare as text


def test_metrics_are_flat_numbers_with_bounds_where_known():
    metrics = result_of((RIGHT, WRONG), (WRONG, CUT)).metrics()
    assert metrics["eval/accuracy"] == 0.25
    assert metrics["eval/accuracy_low"] == 0 < metrics["eval/accuracy_high"] <= 1
    assert "eval/pass_ratio_low" not in metrics


def test_compare_is_paired_by_task():
    base, better = (
        result_of((WRONG,), (RIGHT,), (WRONG, WRONG)),
        result_of((RIGHT,), (RIGHT,), (RIGHT, WRONG)),
    )
    difference = compare(base, better, "accuracy")
    assert difference.value == pytest.approx(1.5 / 3)
    assert difference.count == 3
    with pytest.raises(ValueError, match="'score' or 'accuracy', got 'calls'"):
        compare(base, better, "calls")


def test_evaluate_plays_every_sample():
    seen = []
    result = run(samples=3, name="script", progress=seen.append)
    assert result.score.value == pytest.approx(2 / 5)  # sums 2 and 4
    assert result.estimates["accuracy"].count == 5
    assert result.estimates["tool_share"].value == 1
    assert result.estimates["calls"].value == 1
    assert result.num_samples == 15
    assert result.settings["engine"] == "scripted"
    assert [p.done for p in seen] == list(range(1, 16))
    assert seen[-1].score == pytest.approx(2 / 5)
    assert seen[-1].total == 15 and seen[-1].invalid == 0


def test_samples_have_the_seeds_of_a_group(tmp_path):
    noisy = agent(["It is 2 or 4."], probability=0.9)
    run(TASKS[:1], by=noisy, samples=3, seed=7, folder=tmp_path)
    kept = {index: t for _, index, t in read_samples(tmp_path)}
    group = asyncio.run(rollout_group(pool(), noisy, TASKS[0], group_size=3, seed=7))
    assert [kept[i].token_ids for i in range(3)] == [t.token_ids for t in group.trajectories]
    assert len({t.token_ids for t in kept.values()}) == 3


def test_invalid_and_truncated_are_reported_beside_the_score():
    tasks = [replace(TASKS[1]), Task("bad", (Message("user", "breakdown"),), "1")]
    result = run(tasks)
    assert result.score.value == 1 and result.score.count == 1
    assert result.estimates["invalid"].value == 0.5
    cut = run(limits=RolloutLimits(max_tokens=3))
    assert cut.estimates["truncated"].value == 1
    assert cut.score.value == 0


class StopsAfter(ScriptedEngine):
    """Goes on strike for good after so many requests: by an error, or by a cancellation."""

    def __init__(self, requests, error, replies=("It is 2 or 4.",), **options):
        super().__init__(list(replies), **options)
        self.left, self.error = requests, error

    async def generate(self, prompt_ids, params):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return await super().generate(prompt_ids, params)


def test_an_interrupted_evaluation_resumes_to_the_same_result(tmp_path):
    answer = agent(["It is 2 or 4."])
    whole = run(by=answer, samples=2)
    striking = Agent(StopsAfter(4, RuntimeError("power cut")), answer.sampling)
    with pytest.raises(ExceptionGroup):
        run(by=striking, samples=2, folder=tmp_path, concurrency=1)
    path = tmp_path / "trajectories" / "samples.jsonl"
    assert len(path.read_text().splitlines()) == 4
    path.write_bytes(path.read_bytes() + b'{"task": {"id"')  # torn by the crash
    played = []
    resumed = run(by=answer, samples=2, folder=tmp_path, resume=True, progress=played.append)
    assert [p.done for p in played] == [5, 6, 7, 8, 9, 10]
    assert resumed.rows == whole.rows
    assert resumed.estimates == whole.estimates
    stored = EvalResult.from_dict(json.loads((tmp_path / "result.json").read_text()))
    assert stored.rows == whole.rows
    assert len({(task.id, index) for task, index, _ in read_samples(tmp_path)}) == 10


def test_resume_plays_invalid_samples_again_and_can_add_samples(tmp_path):
    answer = agent(["It is 2 or 4."])
    striking = Agent(StopsAfter(3, EngineError("gone")), answer.sampling)
    first = run(by=striking, folder=tmp_path, concurrency=1)
    assert first.estimates["invalid"].value == pytest.approx(2 / 5)
    again = run(by=answer, folder=tmp_path, resume=True)
    assert again.estimates["invalid"].value == 0
    assert len(list(read_samples(tmp_path))) == 7
    played = []
    run(by=answer, samples=2, folder=tmp_path, resume=True, progress=played.append)
    assert len(played) == 5


class Siblings(Sums):
    """Pays a share for an answer that few siblings gave."""

    group_rewards = GroupRewards({"novel": distinct_answers}, {"novel": 0.5})


def test_group_rewards_count_as_in_training(tmp_path):
    answer = agent(["2 or 4"], probability=0.9)
    made = EnvPool(lambda: Siblings(tasks=TASKS, tools=[add]))
    tasks = TASKS[:3]

    def evaluated(by=answer, **options):
        return asyncio.run(evaluate(made, by, tasks, samples=3, seed=7, **options))

    groups = asyncio.run(collect(made, answer, tasks, group_size=3, seed=7))
    told = []
    result = evaluated(folder=tmp_path / "whole", progress=told.append)
    assert result.rows == EvalResult.of_groups(groups).rows
    assert result.score.value > fmean(t.correct for g in groups for t in g.trajectories)
    assert [p.done for p in told] == list(range(1, 10))
    kept = {(task.id, index): t for task, index, t in read_samples(tmp_path / "whole")}
    assert {t.reward_parts["novel"] for t in kept.values()} <= {1 / 3, 1 / 2, 1.0}
    # A group that was cut short is played again as a whole: its members' rewards depend on it.
    strike = StopsAfter(4, RuntimeError("power cut"), ["2 or 4"], probability=0.9)
    with pytest.raises(ExceptionGroup):
        evaluated(Agent(strike, answer.sampling), folder=tmp_path / "cut", concurrency=1)
    assert len(list(read_samples(tmp_path / "cut"))) == 3
    strike = StopsAfter(4, EngineError("gone"), ["2 or 4"], probability=0.9)
    lost = evaluated(Agent(strike, answer.sampling), folder=tmp_path / "lost", concurrency=1)
    assert lost.estimates["invalid"].value == pytest.approx(5 / 9)
    for folder in (tmp_path / "cut", tmp_path / "lost"):
        assert evaluated(folder=folder, resume=True).rows == result.rows


def test_resume_refuses_samples_of_another_evaluation(tmp_path):
    run(folder=tmp_path, seed=1)
    with pytest.raises(FileExistsError, match=r"holds samples.*resume it"):
        run(folder=tmp_path, seed=1)
    with pytest.raises(ValueError, match="not drawn with seed 2"):
        run(folder=tmp_path, seed=2, resume=True)
    changed = [replace(t, reference="x") for t in TASKS]
    with pytest.raises(ValueError, match=r"'sum-0'.*not the task of that id"):
        run(changed, folder=tmp_path, seed=1, resume=True)


def test_bad_requests_are_refused():
    with pytest.raises(ValueError, match="at least one task"):
        run([])
    with pytest.raises(ValueError, match="at least 1, got 0"):
        run(samples=0)
    with pytest.raises(ValueError, match="'sum-1' is double"):
        run([*TASKS, TASKS[1]])


def shown(table):
    console = Console(file=io.StringIO(), width=110)
    console.print(table)
    return console.file.getvalue()


def test_tables_show_the_numbers_and_escape_names():
    base = result_of((WRONG, WRONG), (RIGHT, WRONG), (WRONG, BROKEN), name="[bold]base[/bold]")
    better = result_of((RIGHT, WRONG), (RIGHT, RIGHT), (RIGHT, CUT), name="trained")
    text = shown(results_table([base, better]))
    assert "[bold]base[/bold]" in text
    assert "16.7 % [0.0, 88.4]" in text  # accuracy of base: task means 0, 0.5, 0
    assert "pass@2" in text and "invalid" in text
    text = shown(difference_table(base, better))
    assert "+0.500" in text
    text = shown(tasks_table(base, limit=2))
    assert "2 of 3 tasks" in text and "t0" in text and "t1" not in text


def test_parts_of_the_reward_are_estimated_where_they_are_not_the_reward():
    rows = [
        replace(response(r, None), reward_parts={"same": r, "length": n, **more})
        for r, n, more in ((0.5, 3.0, {}), (1.0, 5.0, {"rare": 0.25}))
    ]
    estimates = result_of(*((row,) for row in rows)).estimates
    assert estimates["part/length"] == mean_interval([[3.0], [5.0]])
    assert estimates["part/rare"].value == 0.25 and estimates["part/rare"].count == 1
    assert "part/same" not in estimates


def test_figures_of_the_policy_stand_without_an_interval():
    rows = EvalResult.of([], measures={"exploitability": 0.25})
    assert rows.metrics()["eval/exploitability"] == 0.25
    assert "eval/exploitability_low" not in rows.metrics()
