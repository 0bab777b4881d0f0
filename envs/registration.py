"""The registry: Gymnasium's own, with lazy built-ins, plug-ins and helpful errors.

Ids are `namespace/Name-vN`. Any change of prompt or reward raises N. Third parties call
`register`, or name a module in the id (`make("my_module:team/Env-v0")`), or declare an
entry point in the group `palestra.envs` whose value is a module that registers; entry
points are read only when an id is unknown or a listing is asked for.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec, load_env_creator, parse_env_id

ENTRY_POINT_GROUP = "palestra.envs"
_TAG = "palestra"

# id, lazy entry point, one line for listings
_BUILT_IN = (
    (
        "palestra/MathCode-v0",
        "palestra.envs.math_code:MathCode",
        "Math problems with a sandboxed Python tool, graded exactly (after ZeroTIR)",
    ),
    (
        "palestra/PythonExec-v0",
        "palestra.envs.python_exec:PythonExec",
        "Programming problems, graded by hidden unit tests in a session of their own",
    ),
    (
        "palestra/KuhnPoker-v0",
        "palestra.envs.kuhn_poker:KuhnPoker",
        "Kuhn poker for two seats, zero-sum, with exactly known exploitability",
    ),
    (
        "palestra/Reasoning-v0",
        "palestra.envs.reasoning:Reasoning",
        "Every reasoning-gym family, one or a mixture, at any level, with its own scorer",
    ),
    (
        "palestra/Chat-v0",
        "palestra.envs.chat:Chat",
        "Open chat judged by a reward model that sees the answer only (after RLMT)",
    ),
    (
        "palestra/Rubric-v0",
        "palestra.envs.rubric:Rubric",
        "Short texts graded by rubrics with vetoes and tournaments (after Kimi K2)",
    ),
    (
        "palestra/Gymnasium-v0",
        "palestra.envs.interop.gymnasium:GymnasiumText",
        "Any Gymnasium environment with discrete or text actions, read as text",
    ),
    (
        "palestra/TextArena-v0",
        "palestra.envs.interop.textarena:TextArena",
        "The games of TextArena, for one seat or several",
    ),
    (
        "palestra/OpenEnv-v0",
        "palestra.envs.interop.openenv:OpenEnvChat",
        "An environment on an OpenEnv server, whose actions and observations are text",
    ),
    (
        "palestra/Verifiers-v0",
        "palestra.envs.interop.verifiers:make",
        "Environments written for verifiers, scored by their own rewards",
    ),
    (
        "palestra/Inspect-v0",
        "palestra.envs.interop.inspect_ai:InspectTask",
        "Tasks of inspect-ai that ask for text, scored by their own scorers",
    ),
)


# What needs an optional package: the package, and the extra that brings it.
_NEEDS = {
    "palestra/Reasoning-v0": ("reasoning_gym", "tasks"),
    "palestra/TextArena-v0": ("textarena", "textarena"),
    "palestra/OpenEnv-v0": ("websockets", "serve"),
    "palestra/Verifiers-v0": ("verifiers", "verifiers"),
    "palestra/Inspect-v0": ("inspect_ai", "inspect"),
}


class EnvNotFoundError(gymnasium.error.NameNotFound, LookupError):
    """No environment of that id, in the registry or in any plug-in."""


def register(
    id: str,
    entry_point: str | Callable[..., gymnasium.Env[Any, Any]],
    *,
    description: str = "",
    **kwargs: Any,
) -> None:
    """Make an environment available to `make`, `gymnasium.make` and the command line.

    Args:
        id: `namespace/Name-vN`.
        entry_point: "module:Class" (imported on first use), or a class or function.
        description: one line for `palestra list`.
        **kwargs: defaults for the constructor.

    Raises:
        ValueError: the id has no version, or stands for something else already.
    """
    _, _, version = parse_env_id(id)
    if version is None:
        raise ValueError(f"the id {id!r} needs a version at its end, such as {id}-v0")
    known = gymnasium.registry.get(id)
    if known is not None:
        if known.entry_point == entry_point and known.kwargs == kwargs:
            return
        raise ValueError(
            f"{id!r} is registered already, for {known.entry_point}: choose another name, "
            f"or raise the version"
        )
    gymnasium.register(
        id,
        entry_point,
        order_enforce=False,
        disable_env_checker=True,
        additional_wrappers=(),
        kwargs=kwargs,
    )
    _descriptions()[id] = description


def make(id: str, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """Create an environment; `kwargs` go to its constructor.

    Raises:
        EnvNotFoundError: the id is unknown; the message names the nearest ids.
        ValueError: the constructor does not take these arguments.
    """
    try:
        return gymnasium.make(spec(id), **kwargs)
    except TypeError as error:
        reason = str(error).partition(" was raised from the environment creator")[0]
        raise ValueError(f"{id} cannot be made with {kwargs}: {reason}") from error


def maker(id: str, **kwargs: Any) -> Callable[[], gymnasium.Env[Any, Any]]:
    """Makes equal environments, any number of them; their tasks are loaded once.

    The first is made here, so that what is wrong with `kwargs` is told at once.
    """
    first = make(id, **kwargs)
    takes = inspect.signature(type(first.unwrapped).__init__).parameters
    if "tasks" in takes and hasattr(first.unwrapped, "tasks"):
        kwargs["tasks"] = first.unwrapped.tasks
    spare = [first]
    return lambda: spare.pop() if spare else make(id, **kwargs)


def spec(id: str) -> EnvSpec:
    """The registered spec of `id`, which may name its module: `module:namespace/Name-v0`.

    Raises:
        EnvNotFoundError: the id is unknown; the message names the nearest ids.
    """
    module, _, name = id.rpartition(":")
    if module:
        __import__(module)
    if name not in gymnasium.registry:
        load_plugins()
    if name not in gymnasium.registry:
        raise EnvNotFoundError(_not_found(name))
    return gymnasium.registry[name]


def creator(spec: EnvSpec) -> Any:
    """The class or function behind a spec."""
    point = spec.entry_point
    return load_env_creator(point) if isinstance(point, str) else point


def parameters(spec: EnvSpec) -> dict[str, Any]:
    """The keyword arguments an environment takes, with their defaults (`...` for none).

    Where a constructor has `**kwargs`, the optional arguments of the next one in line are taken
    too; what that one requires is its subclass's to give.
    """
    own, *inherited = _signatures(creator(spec))
    optional = (p for up in inherited for p in up if p.default is not p.empty)
    found: dict[str, Any] = {}
    for p in (*own, *optional):
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name != "render_mode":
            found.setdefault(p.name, ... if p.default is p.empty else p.default)
    return found | {name: spec.kwargs[name] for name in found if name in spec.kwargs}


def takes_anything(spec: EnvSpec) -> bool:
    """Whether `**kwargs` go where no signature tells what is taken."""
    *_, last = _signatures(creator(spec))
    return any(p.kind is p.VAR_KEYWORD for p in last)


def _signatures(made_by: Any) -> list[list[inspect.Parameter]]:
    """A constructor's parameters, then those of each that its `**kwargs` are passed on to."""
    if not isinstance(made_by, type):
        return [list(inspect.signature(made_by).parameters.values())]
    found = []
    for cls in made_by.__mro__:
        if "__init__" in vars(cls) and cls is not object:
            found.append(list(inspect.signature(vars(cls)["__init__"]).parameters.values())[1:])
            if not any(p.kind is p.VAR_KEYWORD for p in found[-1]):
                break
    return found or [[]]


def list_environments() -> list[EnvSpec]:
    """Every Palestra environment, plug-ins included, by id."""
    load_plugins()
    return sorted(_known(), key=lambda s: s.id)


def description(id: str) -> str:
    """The one-line description given at registration."""
    return _descriptions().get(id, "")


def extra(id: str) -> str:
    """The extra of Palestra without which an environment cannot be made; "" for none."""
    return _NEEDS.get(id, ("", ""))[1]


def missing_extra(id: str) -> str:
    """The extra that an environment needs and whose package is not installed; "" for none."""
    package, name = _NEEDS.get(id, ("", ""))
    return name if package and find_spec(package) is None else ""


@cache
def load_plugins() -> tuple[str, ...]:
    """Import the modules behind the entry points; a broken one is named and skipped."""
    loaded = []
    for point in entry_points(group=ENTRY_POINT_GROUP):
        try:
            found = point.load()
            if getattr(found, "__file__", "") is None:
                raise ImportError(f"{next(iter(found.__path__))} hides it: no __init__.py")
        except Exception as error:  # noqa: BLE001 - somebody else's code; ours must go on
            warnings.warn(
                f"plug-in {point.name!r} ({point.value}) was skipped: {type(error).__name__}: "
                f"{error}",
                stacklevel=2,
            )
        else:
            loaded.append(point.name)
    return tuple(loaded)


@cache
def _descriptions() -> dict[str, str]:
    return {}


def _known() -> Iterator[EnvSpec]:
    return (gymnasium.registry[id] for id in _descriptions())


def _not_found(name: str) -> str:
    namespace, _, own = name.lower().rpartition("/")
    ids = [s.id for s in _known()]
    spaces = {id.split("/")[0].lower() for id in ids}
    meant = get_close_matches(namespace, spaces, n=1) if namespace else spaces
    # Namespaces are mostly alike and would make every name look near.
    short = {id.split("/")[-1].lower(): id for id in ids if id.split("/")[0].lower() in meant}
    near = get_close_matches(own, short, n=3, cutoff=0.6)
    near = [short[name] for name in near]
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"no environment {name!r}. {hint}`palestra list` shows all of them."


for _id, _entry_point, _description in _BUILT_IN:
    register(_id, _entry_point, description=_description)
