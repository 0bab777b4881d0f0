"""`palestra info ID`: the card of one environment."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from tyro.conf import Positional

from .environment import entry_point, find, make_environment, required
from .parsing import parse

if TYPE_CHECKING:
    from ..envs.core import ChatEnv


@dataclass(frozen=True)
class Options:
    """Show what an environment asks, offers and takes, with the first task as an example."""

    id: Positional[str]
    """Id of the environment, such as palestra/MathCode-v0."""
    env: dict[str, Any] = field(default_factory=dict)
    """Settings of the environment, as --env.KEY VALUE."""
    json: bool = False
    """Print a JSON object."""


EXAMPLES = ("palestra/MathCode-v0", "palestra/MathCode-v0 --env.protocol hermes --json")


def main(argv: Sequence[str]) -> int:
    options = parse(Options, argv, command="info", examples=EXAMPLES)
    facts = card(options.id, options.env)
    print(json.dumps(facts, indent=2, default=str) if options.json else as_text(facts))
    return 0


def card(id: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The facts about an environment, as JSON can hold them."""
    from ..envs.registration import creator, description, parameters

    spec = find(id)
    facts = {
        "id": spec.id,
        "description": description(spec.id),
        "entry_point": entry_point(spec),
        "about": inspect.getdoc(creator(spec)) or "",
        "settings": {name: _default(value) for name, value in parameters(spec).items()},
    }
    return facts | _inside(id, given, [name for name in required(spec) if name not in given])


def _inside(id: str, given: Mapping[str, Any], lacking: Sequence[str]) -> dict[str, Any]:
    """What only the environment itself knows; where it cannot be made, what that takes."""
    if lacking:
        return {"needs": f"to be made it needs {', '.join(f'--env.{name}' for name in lacking)}"}
    try:
        made = make_environment(id, given)
    except (ImportError, ConnectionError) as error:  # a package or a server that is not there
        return {"needs": str(error)}
    with closing(made):
        env = cast("ChatEnv", made.unwrapped)
        opening, _ = env.reset(options={"task": 0})
        return {
            "num_tasks": len(env.tasks),
            "max_turns": env.max_turns,
            "tools": env.tool_schemas,
            "example": [message.to_dict() for message in opening],
        }


def _default(value: Any) -> Any:
    if value is ...:
        return "(required)"
    if isinstance(value, tuple | list):
        return [_default(item) for item in value]
    if isinstance(value, type):
        return value.__name__
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def as_text(facts: dict[str, Any]) -> str:
    """The card for people."""
    settings = [f"  {name} = {json.dumps(value)}" for name, value in facts["settings"].items()]
    about = [line.rstrip() for line in facts["about"].splitlines()]
    head = f"{facts['id']}: {facts['description']}"
    changing = "settings (change one with --env.KEY VALUE)"
    if "needs" in facts:
        where = f"{facts['entry_point']}, not made here: {facts['needs']}"
        return "\n".join((head, where, "", *about, "", changing, *settings))
    tools = [
        f"  {t['function']['name']}: {_first_sentence(t['function'].get('description', ''))}"
        for t in facts["tools"]
    ]
    example = [f"  [{m['role']}] {_indent(m['content'])}" for m in facts["example"]]
    return "\n".join(
        (
            head,
            f"{facts['entry_point']}, {facts['num_tasks']} tasks, "
            f"at most {facts['max_turns']} turns",
            *("", *about),
            *("", "tools", *(tools or ["  none"])),
            *("", changing, *settings),
            *("", "first task", *example),
        )
    )


def _first_sentence(text: str) -> str:
    """Whole, where the docstring breaks its line."""
    paragraph = " ".join(text.strip().partition("\n\n")[0].split())
    sentence, stop, _ = paragraph.partition(". ")
    return f"{sentence}." if stop else paragraph


def _indent(text: str) -> str:
    return text.replace("\n", "\n  ")
