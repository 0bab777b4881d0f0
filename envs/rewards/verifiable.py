"""Answers that a rule can check: exact text, a regular expression, a JSON schema.

Mathematics has a file of its own (`math.py`). Expressions and schemas are matched in a worker
process under a CPU limit (`verifier.py`), because both can be made to take for ever by the
answer: what exceeds the limit is wrong, and a lost worker is `Invalid("verifier")`.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping
from typing import Any

from ..types import Invalid
from .verifier import VerifierError, VerifierPool, default_pool

MAX_CHARS = 1 << 20
# What an answer can do to a matcher; any other failure is the rule's own.
_PROVOKED = ("RecursionError", "MemoryError")


def normalised(text: str) -> str:
    """NFKC, case folded, white space runs as one space, and no final full stop."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(folded.split()).removesuffix(".").rstrip()


def matches_exactly(answer: str | None, reference: str, *, normalise: bool = True) -> bool:
    """Whether the answer is the reference, up to `normalised` unless `normalise` is off.

    None and an empty answer never match, not even an empty reference.
    """
    if answer is None or not answer.strip():
        return False
    if not normalise:
        return answer == reference
    return normalised(answer) == normalised(reference)


async def matches_regex(
    answer: str | None,
    pattern: str,
    *,
    full: bool = True,
    absent: bool = False,
    flags: int = 0,
    pool: VerifierPool | None = None,
    cpu_s: float | None = None,
) -> bool | Invalid:
    """Whether `pattern` matches the whole answer (or, with `full=False`, some part of it).

    With `absent`, whether it does not; a search that is cut off is False either way.
    `cpu_s` is what it may use (default: the pool's limit).

    Raises:
        ValueError: `pattern` is no regular expression.
    """
    try:
        re.compile(pattern, flags)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    if answer is None or len(answer) > MAX_CHARS:
        return False
    request = {"pattern": pattern, "text": answer, "full": full, "flags": int(flags)}
    return await _ask("regex", {**request, "absent": absent}, pool, cpu_s)


async def matches_schema(
    answer: str | None, schema: Mapping[str, Any], *, pool: VerifierPool | None = None
) -> bool | Invalid:
    """Whether the answer is JSON, alone or as one fenced block, that satisfies a JSON schema.

    The draft is the one that `$schema` names (default: the latest). References are resolved
    within the schema only, nothing is fetched; one that cannot be resolved is
    `Invalid("verifier")`. NaN and Infinity are not JSON.

    Raises:
        ImportError: jsonschema is not installed.
        ValueError: `schema` is no schema.
    """
    _check_schema(schema)
    text = _json_text(answer)
    if text is None:
        return False
    return await _ask("json-schema", {"schema": dict(schema), "text": text}, pool)


def _check_schema(schema: Mapping[str, Any]) -> None:
    try:
        from jsonschema.exceptions import SchemaError
        from jsonschema.validators import validator_for
    except ImportError as error:
        raise ImportError(
            "a JSON schema needs jsonschema: pip install 'palestra[schema]'"
        ) from error
    try:
        validator_for(schema).check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"this is no JSON schema: {error.message}") from error


def _json_text(answer: str | None) -> str | None:
    """The JSON in an answer, or None where there is none that a strict parser reads."""
    if answer is None or len(answer) > MAX_CHARS:
        return None
    text = answer.strip()
    if text.startswith("```") and text.endswith("```") and text.count("```") == 2:
        text = text[3:-3].removeprefix("json").strip()
    try:
        json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None
    return text


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


async def _ask(
    kind: str, request: Mapping[str, Any], pool: VerifierPool | None, cpu_s: float | None = None
) -> bool | Invalid:
    try:
        verdict = await (pool or default_pool()).aask(kind, request, cpu_s=cpu_s)
    except VerifierError as error:
        return Invalid("verifier", str(error))
    if verdict.status == "failed" and not verdict.message.startswith(_PROVOKED):
        return Invalid("verifier", f"{kind}: {verdict.message}")  # the author's rule is broken
    return verdict.status == "ok" and bool(verdict.value)
