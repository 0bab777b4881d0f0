"""The strict TOML loader: what it reads, what it refuses, and where it says the fault is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import pytest

from palestra.cli.parsing import parse
from palestra.envs.configfile import ConfigError, line_of, load_toml


class Device(StrEnum):
    CPU = "cpu"
    CUDA = "cuda"


@dataclass(frozen=True)
class Env:
    """What to train on."""

    id: str = "palestra/Arithmetic-v0"
    """Id of the environment."""
    tasks: int = 64
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.tasks < 1:
            raise ValueError(f"tasks must be at least 1, got {self.tasks}")


@dataclass(frozen=True)
class Recipe:
    """Train."""

    steps: int = 10
    lr: float = 1e-3
    algorithm: Literal["grpo", "dapo"] = "grpo"
    device: Device = Device.CPU
    out: Path = Path("runs")
    seed: int | None = None
    save: bool = False
    betas: tuple[float, float] = (0.9, 0.95)
    tags: tuple[str, ...] = ()
    budget: int | Literal["auto"] = "auto"
    env: Env = field(default_factory=Env)


@dataclass(frozen=True)
class Needs:
    name: str
    size: int = 1


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    return path


def refusal(tmp_path: Path, text: str, cls: type = Recipe) -> str:
    with pytest.raises(ConfigError) as caught:
        load_toml(cls, write(tmp_path, text))
    return str(caught.value)


def test_values_arrive_with_their_declared_types(tmp_path: Path) -> None:
    text = """
steps = 3
lr = 1
algorithm = "dapo"
device = "cuda"
out = "elsewhere"
seed = 7
save = true
betas = [0, 0.5]
tags = ["a", "b"]
budget = 5

[env]
tasks = 2
kwargs = { digits = 3, nested = { deep = [1] } }
"""
    recipe = load_toml(Recipe, write(tmp_path, text))
    env = Env(tasks=2, kwargs={"digits": 3, "nested": {"deep": [1]}})
    expected = Recipe(
        3, 1.0, "dapo", Device.CUDA, Path("elsewhere"), 7, True, (0.0, 0.5), ("a", "b"), 5, env
    )
    assert recipe == expected
    assert isinstance(recipe.lr, float)


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    assert load_toml(Recipe, write(tmp_path, "")) == Recipe()


def test_default_is_beaten_by_file_and_file_by_flag(tmp_path: Path) -> None:
    recipe = load_toml(Recipe, write(tmp_path, "steps = 3\nlr = 0.5\n[env]\ntasks = 2\n"))
    flags = ["--steps", "4", "--env.id", "palestra/Other-v0"]
    merged = parse(Recipe, flags, command="train", default=recipe)
    assert (merged.steps, merged.lr, merged.algorithm) == (4, 0.5, "grpo")
    assert merged.env == Env(id="palestra/Other-v0", tasks=2)


def test_an_unknown_key_names_its_line_and_its_nearest(tmp_path: Path) -> None:
    message = refusal(tmp_path, "steps = 3\n\n[env]\n# how many\ntask = 2\n")
    assert message.endswith("recipe.toml:5: unknown key 'env.task'; did you mean 'env.tasks'?")


def test_an_unknown_key_far_from_all_lists_what_there_is(tmp_path: Path) -> None:
    message = refusal(tmp_path, "[env]\nqqqqqqqqqqqqqqqqqq = 2\n")
    assert "known here: id, tasks, kwargs" in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("steps = 'three'", "steps must be int, got str 'three'"),
        ("steps = true", "steps must be int, got bool True"),
        ("steps = 1.5", "steps must be int, got float 1.5"),
        ("save = 1", "save must be bool, got int 1"),
        ("algorithm = 'grop'", "algorithm cannot be 'grop'; did you mean 'grpo'?"),
        ("device = 'tpuuuuuu'", "device cannot be 'tpuuuuuu'; choose from cpu, cuda"),
        ("betas = [0.9]", "betas must be an array of 2 values, got list [0.9]"),
        ("tags = 'a'", "tags must be an array, got str 'a'"),
        ("env = 3", "env must be a table, got int 3"),
        ("[env]\nkwargs = 3", "env.kwargs must be a table, got int 3"),
        ("[env]\ntasks = 0", "env: tasks must be at least 1, got 0"),
        ("budget = 'all'", "budget must be int or"),
    ],
)
def test_wrong_values_are_refused(tmp_path: Path, text: str, says: str) -> None:
    assert says in refusal(tmp_path, text)


def test_a_missing_required_key_is_named(tmp_path: Path) -> None:
    assert "missing 'name'" in refusal(tmp_path, "size = 2", Needs)


def test_syntax_errors_and_absent_files_are_refused(tmp_path: Path) -> None:
    assert "is not TOML" in refusal(tmp_path, "steps = ")
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load_toml(Recipe, tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        (("a",), 1),
        (("t",), 3),
        (("t", "b"), 5),
        (("t", "d", "e"), 6),
        (("t", "u", "c"), 8),
        (("absent",), None),
    ],
)
def test_line_of_finds_keys_tables_and_dotted_keys(keys: tuple[str, ...], line: int | None) -> None:
    text = 'a = 1\n\n[t] # table\n# b = 0\n"b" = 2\nd.e = 3\n[t.u]\nc = [1]\n'
    assert line_of(text, keys) == line
