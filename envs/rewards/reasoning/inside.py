"""What a scoring session runs: the family's own scorer, on one answer.

The host imports this file for `encode`; sessions are given its source, so it uses nothing of
Palestra, and is short: every answer compiles it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

# Their constructors read files for up to a second, which only the making of tasks needs.
READ_TO_POSE = frozenset(("arc_agi", "codeio", "figlet_font", "group_anagrams", "spell_backward"))


def score(request: str) -> float | str:
    """The scorer's own score, or in words why there is none to ask: `request` is JSON of
    family, options, entry and answer, the options and the entry as `encode` left them."""
    try:
        import reasoning_gym
    except ImportError as error:
        return f"reasoning-gym cannot be imported: {error}"
    asked = json.loads(request)
    family, options = asked["family"], {**decode(asked["options"]), "seed": 0, "size": 1}
    if family in READ_TO_POSE:
        kind, config = reasoning_gym.factory.DATASETS[family]
        scorer = kind.__new__(kind)
        scorer.config = config(**options)
        vars(scorer).update(vars(scorer.config))  # as the constructors of arc_agi and rearc do
    else:
        scorer = reasoning_gym.create_dataset(family, **options)
    return float(scorer.score_answer(asked["answer"], decode(asked["entry"])))


def encode(value: Any) -> Any:
    """`value` as plain JSON that `decode` turns back: tuples and non-text keys are tagged."""
    if isinstance(value, tuple):
        return {"!tuple": [encode(item) for item in value]}
    if isinstance(value, set | frozenset):
        return {"!set": [encode(item) for item in sorted(value, key=repr)]}
    if isinstance(value, Fraction):
        return {"!fraction": [value.numerator, value.denominator]}
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("!") for key in value):
            return {key: encode(item) for key, item in value.items()}
        return {"!dict": [[encode(key), encode(item)] for key, item in value.items()]}
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return encode(value.tolist())
    raise TypeError(f"cannot keep a {type(value).__name__} in a task's metadata: {value!r:.100}")


def decode(value: Any) -> Any:
    """The inverse of `encode`."""
    if isinstance(value, list):
        return [decode(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    if "!tuple" in value:
        return tuple(decode(item) for item in value["!tuple"])
    if "!fraction" in value:
        return Fraction(*value["!fraction"])
    if "!set" in value:
        return {decode(item) for item in value["!set"]}
    if "!dict" in value:
        return {decode(key): decode(item) for key, item in value["!dict"]}
    return {key: decode(item) for key, item in value.items()}
