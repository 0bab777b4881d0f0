"""reasoning-gym's data sets, by the name of their family."""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import Any

from .inside import decode, encode

_UNBOUNDED = 1 << 32  # families make item `i` from seed + i: no list of this size exists
# These instead draw all their items when they are made, and index into them.
WHOLE_SETS = frozenset(("acre", "gsm_symbolic", "list_functions"))
# These iterate over sets of strings: their items vary with the interpreter's hash seed.
HASH_SEEDED = frozenset(("isomorphic_strings", "polynomial_multiplication", "ransom_note"))


def family_dataset(family: str, options: Mapping[str, Any], *, seed: int | None = None) -> Any:
    """The reasoning-gym data set of a family: cached and unbounded, or of size 1 for `seed`.

    Raises:
        ImportError: reasoning-gym is not installed.
        ValueError: unknown family or option, or a value that the family refuses.
    """
    if seed is not None:
        return _create(family, options, seed=seed, size=1)
    return _cached_dataset(family, json.dumps(encode(options), sort_keys=True))


@lru_cache(maxsize=256)
def _cached_dataset(family: str, options: str) -> Any:
    dataset = _create(family, decode(json.loads(options)), seed=0, size=1)
    if family not in WHOLE_SETS:
        dataset.size = _UNBOUNDED
    return dataset


def _create(family: str, options: Mapping[str, Any], **fixed: int) -> Any:
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise ImportError(
            f"'rg:{family}' needs reasoning-gym: pip install 'palestra[tasks]'"
        ) from error
    families = [name for name in DATASETS if name != "composite"]
    if family not in families:
        near = get_close_matches(family, families, 3, 0.4)
        raise ValueError(
            f"reasoning-gym has no family {family!r}; the nearest are {', '.join(near) or 'none'}"
        )
    known = [name for name in DATASETS[family][1].__dataclass_fields__ if name not in fixed]
    for name in options:
        if name not in known:
            near = get_close_matches(name, known, 1, 0.4)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"'rg:{family}' has no option {name!r}, but {known}{hint}")
    try:
        return reasoning_gym.create_dataset(family, **options, **fixed)
    except (AssertionError, TypeError, ValueError) as error:
        raise ValueError(f"'rg:{family}' refuses {dict(options)}: {error}") from error
