"""What several commands share: making the environment that the command line names."""

from __future__ import annotations

import inspect
import tomllib
from collections.abc import Mapping, Sequence
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
        raise UsageError(str(error)) from error


def parameters(spec: EnvSpec) -> dict[str, Any]:
    """The keyword arguments an environment takes, with their defaults (`...` for none)."""
    creator = load(spec)
    return {
        name: spec.kwargs.get(name, ... if p.default is p.empty else p.default)
        for name, p in inspect.signature(creator).parameters.items()
        if p.kind is not p.VAR_KEYWORD and name != "render_mode"
    }


def load(spec: EnvSpec) -> Any:
    """The class or function behind a spec."""
    from gymnasium.envs.registration import load_env_creator

    point = spec.entry_point
    return load_env_creator(point) if isinstance(point, str) else point


def make_environment(id: str, pairs: Sequence[str] = ()) -> gymnasium.Env[Any, Any]:
    """`make(id, **settings(pairs))`.

    Raises:
        UsageError: no such environment, or it does not take one of the settings.
    """
    from ..envs.registration import make

    spec, kwargs = find(id), settings(pairs)
    known = parameters(spec)
    for key in kwargs:
        if key not in known:
            hint = nearest(key, known) or f"; it takes {', '.join(known)}"
            raise UsageError(f"{spec.id} has no setting {key!r}{hint}")
    return make(id, **kwargs)


def settings(pairs: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` texts as keyword arguments: values in TOML, or else plain text.

    Keys may be dotted: `["digits.max=3", "tasks=gsm8k.jsonl"]` gives
    `{"digits": {"max": 3}, "tasks": "gsm8k.jsonl"}`.
    """
    merged: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.strip():
            raise UsageError(f"--set takes KEY=VALUE, got {pair!r}")
        _merge(merged, _parse(key.strip(), value.strip()))
    return merged


def _parse(key: str, value: str) -> dict[str, Any]:
    try:
        return tomllib.loads(f"{key} = {value}")
    except tomllib.TOMLDecodeError:  # a bare word: --set protocol=hermes
        parsed: Any = value
        for part in reversed(key.split(".")):
            parsed = {part: parsed}
        return dict(parsed)


def _merge(into: dict[str, Any], new: Mapping[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value
