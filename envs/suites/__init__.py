"""Suites: named lists of environments, each with the tasks and limits it is measured with.

    # suite.toml
    description = "What my agent has to be good at"

    [environments.sums]                # a name of your own; the same id may come twice
    id = "palestra/MathCode-v0"
    tasks = 32
    max_tokens = 256
    options = { task_options = { digits = 3 } }

`load_suite` reads one; `agents.evaluation.evaluate_suite` plays it, and on the command line
`palestra eval --suite` does. Three ship: see the files beside this one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..configfile import ConfigError, load_toml, nearest

SHIPPED = Path(__file__).parent
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Entry:
    """One environment of a suite.

    Attributes:
        id: a registered id (`palestra list`).
        options: keyword arguments of its constructor.
        split: the task split to play, where the environment has splits.
        tasks: how many tasks of the split, from its beginning.
        samples: episodes of each task.
        temperature: of sampling; 0 is greedy.
        max_tokens: tokens that the model may write in one episode.
        timeout_s: wall clock of one episode, in seconds.
    """

    id: str
    options: dict[str, Any] = field(default_factory=dict)
    split: str = "heldout"
    tasks: int = 64
    samples: int = 1
    temperature: float = 1.0
    max_tokens: int = 512
    timeout_s: float = 300.0

    def __post_init__(self) -> None:
        for name in ("tasks", "samples", "max_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.temperature < 0 or self.timeout_s <= 0:
            raise ValueError(
                f"temperature must not be negative and timeout_s must be positive, got "
                f"{self.temperature} and {self.timeout_s}"
            )

    def settings(self) -> dict[str, Any]:
        """The environment's keyword arguments, the split among them if it has splits.

        Raises:
            EnvNotFoundError: the id is unknown.
        """
        from ..registration import parameters, spec  # brings Gymnasium: slow to import

        split = {"split": self.split} if "split" in parameters(spec(self.id)) else {}
        return split | self.options


@dataclass(frozen=True, slots=True)
class Suite:
    """A named list of environments; the fields are those of a `suite.toml`.

    Attributes:
        description: one line for `palestra list --suites`.
        environments: by the name that tables and folders give them.
        name: of the suite (of a file that does not say: the file's own).
    """

    environments: dict[str, Entry]
    description: str = ""
    name: str = ""

    def __post_init__(self) -> None:
        if not self.environments:
            raise ValueError("a suite needs at least one environment, as [environments.NAME]")
        for name in self.environments:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"{name!r} cannot name an environment of a suite, as it names a folder too: "
                    f"use letters, digits, '.', '_' and '-'"
                )

    def changed(self, changes: Mapping[str, Any]) -> Suite:
        """A copy in which every entry has these fields, such as `{"tasks": 4}`."""
        entries = {name: replace(entry, **changes) for name, entry in self.environments.items()}
        return replace(self, environments=entries)


def load_suite(source: str | Path) -> Suite:
    """A shipped suite by its name, or the one in a TOML file.

    Raises:
        ConfigError: no such suite or file, or a file that does not say what is understood;
            the message names the nearest name or key, and the line.
    """
    names = shipped_suites()
    if str(source) in names:
        source = SHIPPED / f"{source}.toml"
    elif not str(source).endswith(".toml"):
        hint = nearest(str(source), names) or f"; there are {', '.join(names)}"
        raise ConfigError(f"unknown suite {str(source)!r}{hint} (or name a file ending in .toml)")
    suite = load_toml(Suite, source)
    return suite if suite.name else replace(suite, name=Path(source).stem)


def shipped_suites() -> list[str]:
    """The names of the suites that come with Palestra."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))
