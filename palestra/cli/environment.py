"""What several commands share: making the environment that the command line names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UsageError, nearest

if TYPE_CHECKING:
    import gymnasium
    from gymnasium.envs.registration import EnvSpec


def find(id: str) -> EnvSpec:
    """The spec of an id.

    Raises:
        UsageError: there is no such environment; the message names the nearest.
    """
    from ..envs.registration import EnvNotFoundError, spec

    try:
        return spec(id)
    except EnvNotFoundError as error:
        raise UsageError(f"{error}{_not_installed(id)}") from error


def _not_installed(id: str) -> str:
    """A hint where a package of the id's name lies here, as `palestra new` leaves it."""
    folder = Path(id.partition("/")[0])
    if not (folder / "pyproject.toml").is_file():
        return ""
    return (
        f" A package lies in {folder}: `pip install -e {folder}` makes its environments known, "
        f"and then `palestra list {folder.name}` shows their ids."
    )


def entry_point(spec: EnvSpec) -> str:
    """Where an environment is defined, as `module:Class`."""
    point = spec.entry_point
    if point is None or isinstance(point, str):
        return str(point)
    return f"{point.__module__}:{getattr(point, '__qualname__', type(point).__qualname__)}"


def required(spec: EnvSpec) -> list[str]:
    """The settings without which an environment cannot be made."""
    from ..envs.registration import parameters

    return [name for name, default in parameters(spec).items() if default is ...]


def make_environment(id: str, settings: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
    """`make(id, **settings)`.

    Raises:
        UsageError: no such environment, or it does not take one of the settings.
    """
    from ..envs.registration import make

    check_settings(id, settings)
    return make(id, **settings)


def check_settings(id: str, names: Iterable[str]) -> None:
    """Whether an environment takes settings of these names.

    Raises:
        UsageError: no such environment, or it does not take one of them.
    """
    from ..envs.registration import parameters, takes_anything

    spec = find(id)
    known = parameters(spec)
    if takes_anything(spec):
        return
    for name in names:
        if name not in known:
            hint = nearest(name, known) or f"; it takes {', '.join(known) or 'none'}"
            raise UsageError(f"{spec.id} has no setting {name!r}{hint}")
