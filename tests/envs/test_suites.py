"""Suites: the strict file, the ones that ship, and what each of their entries can be made into."""

from __future__ import annotations

from pathlib import Path

import pytest

from palestra import make
from palestra.envs.configfile import ConfigError
from palestra.envs.suites import Entry, Suite, load_suite, shipped_suites

MINE = """
description = "Two of mine"

[environments.sums]
id = "palestra/MathCode-v0"
tasks = 3
options = { task_options = { digits = 1 } }

[environments.poker]
id = "palestra/KuhnPoker-v0"
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def test_a_file_becomes_a_suite_named_after_it(tmp_path: Path) -> None:
    suite = load_suite(written(tmp_path, MINE))
    assert (suite.name, suite.description) == ("mine", "Two of mine")
    assert list(suite.environments) == ["sums", "poker"]
    sums = suite.environments["sums"]
    assert (sums.tasks, sums.samples, sums.split) == (3, 1, "heldout")
    assert sums.settings() == {"split": "heldout", "task_options": {"digits": 1}}
    assert suite.environments["poker"].settings() == {}  # has no splits
    assert load_suite(written(tmp_path, f'name = "own"\n{MINE}')).name == "own"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            MINE.replace("tasks = 3", "taks = 3"),
            r"mine.toml:6: unknown key 'environments.sums.taks",
        ),
        (MINE.replace("tasks = 3", "taks = 3"), "did you mean 'environments.sums.tasks'"),
        (
            MINE.replace("[environments.poker]", "[environment.poker]"),
            "did you mean 'environments'",
        ),
        (MINE.replace("tasks = 3", "tasks = 0"), "tasks must be at least 1, got 0"),
        (MINE.replace("tasks = 3", 'tasks = "3"'), "tasks must be int, got str '3'"),
        (MINE.replace("tasks = 3", "temperature = -1"), "temperature must not be negative"),
        ("[environments.a]\ntasks = 1", "missing 'environments.a.id'"),
        ("[environments]", "at least one environment"),
        ('[environments."a/b"]\nid = "x"', "cannot name an environment"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        load_suite(written(tmp_path, text))


def test_an_unknown_suite_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"did you mean 'smoke'"):
        load_suite("smok")
    with pytest.raises(ConfigError, match="cannot read"):
        load_suite("nowhere/smoke.toml")


def test_changes_go_to_every_entry() -> None:
    suite = load_suite("tools").changed({"tasks": 2, "max_tokens": 9})
    assert {(e.tasks, e.max_tokens) for e in suite.environments.values()} == {(2, 9)}
    with pytest.raises(ValueError, match="samples must be at least 1"):
        suite.changed({"samples": 0})
    with pytest.raises(ValueError, match="at least one environment"):
        Suite({})


def entries() -> list[tuple[str, str, Entry]]:
    suites = [load_suite(name) for name in shipped_suites()]
    return [(s.name, name, entry) for s in suites for name, entry in s.environments.items()]


def test_three_suites_ship() -> None:
    assert shipped_suites() == ["chat", "smoke", "tools"]
    assert all(load_suite(name).description for name in shipped_suites())


@pytest.mark.parametrize(("suite", "name", "entry"), entries())
def test_every_entry_that_ships_can_be_made_and_has_its_tasks(
    suite: str, name: str, entry: Entry
) -> None:
    env = make(entry.id, **entry.settings()).unwrapped
    assert len(env.tasks) >= entry.tasks
    assert env.tasks[0].split == "heldout"
    assert env.reward_range == (0.0, 1.0)  # or there is no mean of the scores
    env.close()
