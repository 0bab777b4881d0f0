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
        UsageError: there is no such environment (the message names the nearest), or no such
            module as the id begins with.
    """
    from ..envs.registration import EnvNotFoundError, spec

    try:
        return spec(id)
    except EnvNotFoundError as error:
        raise UsageError(f"{error}{_not_installed(id)}") from error
    except ModuleNotFoundError as error:
        module = id.rpartition(":")[0]
        if not error.name or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and lacks something itself
        raise UsageError(f"there is no module {module!r} to import, which {id} names") from error


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
        UsageError: no such environment, or the settings do not fit it.
    """
    from ..envs.registration import make

    check_settings(id, settings)
    if lacking := [repr(name) for name in required(find(id)) if name not in settings]:
        raise UsageError(f"{id} cannot be made without the setting {', '.join(lacking)}")
    try:
        return make(id, **settings)
    except (ValueError, FileNotFoundError) as error:  # what a setting says does not fit
        raise UsageError(str(error)) from error


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
