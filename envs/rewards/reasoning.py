"""Score an answer with the scorer of the reasoning-gym family that posed the task.

Several of these scorers evaluate the answer as an expression (sympy's parser, or plain
`eval`), so they run in the verifier's worker process, never in this one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from fractions import Fraction
from functools import lru_cache
from typing import Any

from ..types import Invalid, Task
from .verifier import Verdict, VerifierError, VerifierPool, default_pool

_UNBOUNDED = 1 << 32  # families make item `i` from seed + i: no list of this size exists
# These instead draw all their items when they are made, and index into them.
WHOLE_SETS = frozenset(("acre", "gsm_symbolic", "list_functions"))
# These iterate over sets of strings: their items vary with the interpreter's hash seed.
HASH_SEEDED = frozenset(("isomorphic_strings", "polynomial_multiplication", "ransom_note"))


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


def score_entry(
    family: str, options: Mapping[str, Any], entry: Mapping[str, Any], answer: str
) -> float:
    """The family's own score, in this process. `options` and `entry` as `encode` left them."""
    if family == "game_of_life_halting":
        # reasoning-gym 0.1 compares bool(answer), which is True for every text.
        return float(answer.strip().lower() == str(entry["answer"]).lower())
    dataset = family_dataset(family, decode(options))
    return float(dataset.score_answer(answer, decode(entry)))


def score_reasoning(
    answer: str | None, task: Task, *, pool: VerifierPool | None = None
) -> float | Invalid:
    """Score an extracted answer to a task of an `rg:` set, in [0, 1].

    An empty answer scores 0, although some families would pay it a little. So do answers
    that make the scorer fail or exceed its limit. A lost worker is `Invalid("verifier")`.

    Raises:
        ValueError: the task is not from an `rg:` set.
    """
    request = _request(answer, task)
    if request is None:
        return 0.0
    try:
        return _conclude((pool or default_pool()).ask("reasoning-gym", request))
    except VerifierError as error:
        return Invalid("verifier", str(error))


async def ascore_reasoning(
    answer: str | None, task: Task, *, pool: VerifierPool | None = None
) -> float | Invalid:
    """`score_reasoning` without blocking the event loop."""
    request = _request(answer, task)
    if request is None:
        return 0.0
    try:
        return _conclude(await (pool or default_pool()).aask("reasoning-gym", request))
    except VerifierError as error:
        return Invalid("verifier", str(error))


def _request(answer: str | None, task: Task) -> dict[str, Any] | None:
    entry = task.metadata.get("entry")
    if "family" not in task.metadata or not isinstance(entry, Mapping):
        raise ValueError(
            f"task {task.id!r} has no reasoning-gym entry in its metadata: "
            f"score_reasoning takes tasks of load_tasks('rg:...')"
        )
    if answer is None or not answer.strip():
        return None
    return {
        "family": task.metadata["family"],
        "options": task.metadata["options"],
        "entry": {"question": task.question, **entry},
        "answer": answer,
    }


def _conclude(verdict: Verdict) -> float:
    return min(1.0, max(0.0, verdict.value)) if verdict.status == "ok" else 0.0
