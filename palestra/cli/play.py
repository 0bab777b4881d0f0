"""`palestra play ID`: a person in the agent's place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.text import Text
from tyro.conf import Positional

from .environment import make_environment
from .errors import UsageError
from .parsing import parse

SEAT = "seat/"  # what the rewards of the seats are called in `reward_parts`
STYLES = {"system": "dim", "user": "bold", "tool": "cyan", "assistant": "green"}


@dataclass(frozen=True)
class Options:
    """Play one episode yourself: you write what the model would write.

    In a game with seats you play every seat, told each time which.

    An empty line sends what you typed, so an action may have several lines (and a code block
    empty ones). The end of input (Ctrl-D) with nothing typed leaves.
    """

    id: Positional[str]
    """Id of the environment, such as palestra/MathCode-v0."""
    seed: int = 0
    """Seed of the episode: the same seed gives the same task."""
    task: int | None = None
    """Play this task (its index) instead of the one that the seed draws."""
    env: dict[str, Any] = field(default_factory=dict)
    """Settings of the environment, as --env.KEY VALUE."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")


EXAMPLES = ("palestra/MathCode-v0", "palestra/MathCode-v0 --seed 3 --env.protocol hermes")


def main(argv: Sequence[str]) -> int:
    options = parse(Options, argv, command="play", examples=EXAMPLES)
    console = Console(highlight=False, soft_wrap=True)
    with closing(make_environment(options.id, options.env)) as env:
        chosen = {} if options.task is None else {"task": _index(options.task, env)}
        return play(env, options.seed, chosen, console, sys.stdin.readline)


def _index(task: int, env: Any) -> int:
    count = len(env.unwrapped.tasks)
    if not 0 <= task < count:
        raise UsageError(f"--task must be from 0 to {count - 1}, got {task}")
    return task


def play(
    env: Any, seed: int, options: dict[str, Any], console: Console, readline: Callable[[], str]
) -> int:
    """One episode against `readline`. Returns the exit code: 1 for an invalid episode."""
    opening, _ = env.reset(seed=seed, options=options)
    _show(console, opening)
    instructions = env.unwrapped.tool_instructions
    if instructions and not any(instructions in m.content for m in opening):
        _say(console, "tools", instructions, "dim")
    while True:
        console.print(Text(f"{_turn(env)} (an empty line sends it):", style="dim"))
        action = read_action(readline)
        if action is None:
            console.print("left before the end")
            return 0
        observation, reward, terminated, truncated, info = env.step(action)
        _show(console, observation)
        if terminated or truncated:
            return _finish(console, float(reward), info)


def read_action(readline: Callable[[], str]) -> str | None:
    """Lines up to an empty one outside a code block; None when the input has ended."""
    lines: list[str] = []
    while line := readline():
        in_code = sum(seen.startswith("```") for seen in lines) % 2 == 1
        if lines and not line.strip() and not in_code:
            break
        lines.append(line.rstrip("\n"))
    return "\n".join(lines) if lines else None


def _finish(console: Console, reward: float, info: dict[str, Any]) -> int:
    stop, failure = info["stop_reason"], info.get("failure")
    if failure is not None:
        console.print(f"invalid ({failure.kind}): {failure.message}", markup=False)
        return 1
    seats = {k.removeprefix(SEAT): v for k, v in info["reward_parts"].items() if k.startswith(SEAT)}
    if seats:  # a game: everybody's reward, as one person played them all
        ends = ", ".join(f"{seat} {value:+g}" for seat, value in seats.items())
        console.print(f"the game is over: {ends}", markup=False)
        return 0
    parts = ", ".join(f"{name} {value:g}" for name, value in info["reward_parts"].items())
    verdict = {True: ", correct", False: ", not correct", None: ""}[info["correct"]]
    console.print(f"reward {reward:g}{f' ({parts})' if parts else ''}{verdict}: {stop.value}")
    return 0


def _turn(env: Any) -> str:
    seat = getattr(env.unwrapped, "seat", None)
    return f"your turn as {seat}" if seat else "your turn"


def _show(console: Console, messages: Iterable[Any]) -> None:
    for message in messages:
        _say(console, message.role, message.content, STYLES[message.role])


def _say(console: Console, who: str, text: str, style: str) -> None:
    console.print(Text(f"[{who}]", style=f"{style} italic"))
    console.print(Text(text, style=style))
