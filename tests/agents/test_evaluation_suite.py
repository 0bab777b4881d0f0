"""A suite from end to end with a scripted engine: one folder, one table, resumption."""

from __future__ import annotations

import asyncio
import io
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from palestra.agents.engines.scripted import ScriptedEngine
from palestra.agents.evaluation import (
    Estimate,
    EvalResult,
    SuiteResult,
    evaluate_suite,
    mean_interval,
    mean_of_means,
    suite_difference_table,
    suite_folders,
    suite_table,
    wilson,
)
from palestra.agents.report import write_report
from palestra.agents.runlog import read_json, write_json
from palestra.envs.registration import EnvNotFoundError
from palestra.envs.suites import Entry, Suite

SUITE = Suite(
    {
        "sums": Entry("palestra/MathCode-v0", {"task_options": {"digits": 1}}, tasks=4),
        "writing": Entry("palestra/Rubric-v0", tasks=3, samples=2),
    },
    name="mine",
)


def run(suite: Suite = SUITE, reply: str = "It is \\boxed{7}.", **options: Any) -> SuiteResult:
    async def play() -> SuiteResult:
        async with ScriptedEngine([reply]) as engine:
            return await evaluate_suite(suite, engine, name="me", **options)

    return asyncio.run(play())


def test_a_suite_goes_into_one_folder_and_comes_back(tmp_path) -> None:
    heard: list[str] = []
    result = run(folder=tmp_path, progress=lambda name, news: heard.append(name))
    assert heard == ["sums"] * 4 + ["writing"] * 6
    assert [len(one.rows) for one in result.results.values()] == [4, 3]
    assert result.results["writing"].num_samples == 6
    assert sorted(suite_folders(tmp_path)) == ["sums", "writing"]
    again = SuiteResult.from_dict(read_json(tmp_path / "result.json"))
    assert again.reward_ranges == result.reward_ranges == dict.fromkeys(SUITE.environments, (0, 1))
    assert str(again.aggregate) == str(result.aggregate)
    assert {n: r.rows for n, r in again.results.items()} == {
        n: r.rows for n, r in result.results.items()
    }


def test_a_suite_goes_on_where_it_was(tmp_path) -> None:
    whole = run()
    half = replace(SUITE, environments={"sums": replace(SUITE.environments["sums"], tasks=2)})
    run(half, folder=tmp_path)
    with pytest.raises(FileExistsError, match="holds samples"):
        run(folder=tmp_path)
    heard: list[str] = []
    result = run(folder=tmp_path, resume=True, progress=lambda name, news: heard.append(name))
    assert heard == ["sums"] * 2 + ["writing"] * 6
    assert {n: r.rows for n, r in result.results.items()} == {
        n: r.rows for n, r in whole.results.items()
    }


def test_a_mistake_in_the_last_environment_is_told_before_the_first_is_played(tmp_path) -> None:
    wrong = replace(SUITE, environments={**SUITE.environments, "x": Entry("palestra/No-v0")})
    with pytest.raises(EnvNotFoundError):
        run(wrong, folder=tmp_path)
    assert not any(tmp_path.iterdir())


def test_the_mean_needs_scores_of_one_range_from_every_environment() -> None:
    result = run()
    scores = [one.score for one in result.results.values()]
    assert str(result.aggregate) == str(mean_of_means(scores))
    assert result.aggregate.value == pytest.approx(sum(s.value for s in scores) / 2)
    for other in ((-2.0, 2.0), (0.0, math.inf)):
        ranges = {**result.reward_ranges, "sums": other}
        assert math.isnan(replace(result, reward_ranges=ranges).aggregate.value)
    assert math.isnan(
        replace(
            result, reward_ranges=dict.fromkeys(("sums", "writing"), (0, math.inf))
        ).aggregate.value
    )
    nothing = EvalResult.of([], name="me", env_id="palestra/Rubric-v0")
    lost = replace(result, results={**result.results, "writing": nothing})
    assert math.isnan(lost.aggregate.value)


def test_infinite_ranges_survive_json(tmp_path) -> None:
    result = replace(run(), reward_ranges={"sums": (0.0, 1.0), "writing": (-math.inf, math.inf)})
    write_json(tmp_path / "result.json", result.to_dict())
    again = SuiteResult.from_dict(json.loads((tmp_path / "result.json").read_text()))
    assert again.reward_ranges == result.reward_ranges


def text_of(table: object) -> str:
    out = io.StringIO()
    Console(file=out, width=80).print(table)
    return out.getvalue()


def test_the_table_fits_a_terminal_and_holds_every_environment() -> None:
    result = run()
    text = text_of(suite_table(result))
    assert max(map(len, text.splitlines())) <= 80
    rows = [line.split() for line in text.splitlines() if line.strip()]
    assert [row[0] for row in rows[3:]] == ["sums", "writing", "mean"]
    assert rows[3][-3:] == ["4", "x", "1"] and rows[4][-3:] == ["3", "x", "2"]
    assert "me minus me" in text_of(suite_difference_table(result, result))
    other = replace(result, results={"other": result.results["sums"]}, suite="theirs")
    with pytest.raises(ValueError, match="share no environment"):
        suite_difference_table(result, other)


def test_the_report_shows_every_environment_and_its_transcripts(tmp_path) -> None:
    run(folder=tmp_path)
    page = write_report(tmp_path).read_text()
    data = page.partition('id="data">')[2].partition("</script>")[0]
    tasks = [group["task"] for group in json.loads(data)["groups"]]
    assert len(tasks) == 7 and {t.partition(": ")[0] for t in tasks} == {"sums", "writing"}
    assert "mean of the scores" in page and ">Suite</span>" in page
    few = json.loads(
        write_report(tmp_path, max_responses=4)
        .read_text()
        .partition('id="data">')[2]
        .partition("</script>")[0]
    )
    shown = [group["task"].partition(": ")[0] for group in few["groups"]]
    assert {"sums", "writing"} == set(shown) and len(shown) < 7


def test_mean_of_means_by_hand() -> None:
    found = mean_of_means([Estimate(0.5, 0.4, 0.7, 9), Estimate(0.1, 0.0, 0.4, 9)])
    assert found.value == pytest.approx(0.3)
    assert found.low == pytest.approx(0.3 - math.hypot(0.1, 0.1) / 2)
    assert found.high == pytest.approx(0.3 + math.hypot(0.2, 0.3) / 2)
    assert found.count == 2
    assert mean_of_means([Estimate(0.5, 0.4, 0.7, 9)]) == Estimate(0.5, 0.4, 0.7, 1)
    unsure = mean_of_means([Estimate(0.5, 0.4, 0.7), Estimate(0.1)])
    assert unsure.value == pytest.approx(0.3) and math.isnan(unsure.low)
    assert math.isnan(mean_of_means([Estimate(0.5, 0.4, 0.7), Estimate(math.nan)]).value)
    assert math.isnan(mean_of_means([]).value)


@pytest.mark.parametrize("shares", [(0.5, 0.5, 0.5), (0.02, 0.3, 0.95), (0.0, 0.9, 0.6, 1.0)])
def test_the_interval_of_the_mean_covers_it_as_often_as_it_says(shares) -> None:
    draw = np.random.default_rng(0)
    truth, hits, rounds = sum(shares) / len(shares), 0, 1000
    for _ in range(rounds):
        found = mean_of_means([wilson(int(draw.binomial(30, p)), 30) for p in shares])
        hits += found.low <= truth <= found.high
    assert 0.93 <= hits / rounds <= 1.0


def test_the_interval_of_the_mean_covers_for_graded_scores_too() -> None:
    draw, hits, rounds = np.random.default_rng(1), 0, 1000
    for _ in range(rounds):
        tasks = [draw.beta(a, b, size=20) for a, b in ((1, 3), (5, 2), (0.5, 0.5))]
        found = mean_of_means([mean_interval([[x] for x in one]) for one in tasks])
        hits += found.low <= (1 / 4 + 5 / 7 + 1 / 2) / 3 <= found.high
    assert 0.93 <= hits / rounds <= 0.98
