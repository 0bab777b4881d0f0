"""Flags from dataclasses: dict fields that take any name, precedence, and usage errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from palestra.cli.errors import UsageError
from palestra.cli.parsing import merged, open_fields, parse, take_open


@dataclass(frozen=True)
class Env:
    """What to make."""

    id: str = "a"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """A configuration."""

    steps: int = 1
    """How many."""
    fast: bool = True
    env: Env = field(default_factory=Env)
    extra: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.extra.get("bad"):
            raise ValueError(f"extra must not be bad, got {self.extra}")


def test_open_fields_are_found_at_any_depth() -> None:
    assert list(open_fields(Config)) == ["env.options", "extra"]


def test_values_of_open_flags_are_toml_or_plain_text() -> None:
    argv = ["--extra.n", "3", "--steps", "2", "--extra.deep.er=[1, 2]", "--extra.deep.way", "x y"]
    rest, given = take_open(argv, ["extra"])
    assert rest == ["--steps", "2"]
    assert given == {"extra": {"n": 3, "deep": {"er": [1, 2], "way": "x y"}}}


def test_an_open_flag_needs_a_value() -> None:
    with pytest.raises(UsageError, match=r"--extra\.n needs a value"):
        take_open(["--extra.n"], ["extra"])


def test_open_flags_change_the_default_and_leave_it_alone() -> None:
    options = {"digits": {"low": 1, "high": 2}}
    default = Config(env=Env("b", options))
    argv = ["--env.options.digits.high", "9", "--env.options.task-file", "f.jsonl", "--steps", "4"]
    config = parse(Config, argv, command="x", default=default)
    assert config == Config(
        4, env=Env("b", {"digits": {"low": 1, "high": 9}, "task_file": "f.jsonl"})
    )
    assert default.env.options == {"digits": {"low": 1, "high": 2}}


def test_flags_of_booleans_come_in_pairs_on_demand() -> None:
    off = Config(fast=False)
    assert parse(Config, ["--fast"], command="x", default=off, pairs=True).fast
    assert not parse(Config, ["--no-fast"], command="x", pairs=True).fast


def test_checks_of_the_dataclass_are_usage_errors() -> None:
    with pytest.raises(UsageError, match="extra must not be bad"):
        parse(Config, ["--extra.bad", "true"], command="x")


def test_a_wrong_flag_exits_with_2_and_names_the_nearest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(Config, ["--step", "3"], command="x")
    assert caught.value.code == 2
    assert "--steps" in capsys.readouterr().err


def test_help_shows_docstrings_and_then_the_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(Config, ["--help"], command="x", examples=("--steps 3",))
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "How many." in printed
    assert printed.endswith("examples:\n  palestra x --steps 3\n")


def test_merged_without_changes_is_the_same() -> None:
    config = Config()
    assert merged(config, {}) is config
