"""The few facts at the top of a report, and the configuration in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..evaluation.result import EvalResult

Facts = list[tuple[str, str]]
# What a reader asks first, under the names configurations give it.
_WANTED = {
    "model": ("model", "engine_options.model", "agent"),
    "suite": ("suite",),
    "environment": ("env.id", "env", "environment"),
    "algorithm": ("algorithm",),
    "group size": ("group_size",),
    "prompts per step": ("prompts_per_step",),
    "learning rate": ("learner.lr", "learner.learning_rate", "lr"),
    "seed": ("seed",),
}


def run_facts(
    config: Mapping[str, Any], metrics: Sequence[Mapping[str, Any]], result: EvalResult | None
) -> Facts:
    flat = dict(flatten(config))
    facts = []
    for label, names in _WANTED.items():
        value = next((flat[n] for n in names if flat.get(n) not in (None, "", "None")), None)
        if value is not None:
            facts.append((label, value))
    if metrics:
        planned = flat.get("steps")
        last = str(metrics[-1]["step"])
        facts.append(("last step", f"{last} of {planned}" if planned else last))
    if result:
        settings = dict(flatten(result.settings))
        found = {
            "environment": result.env_id,
            "engine": settings.get("engine"),
            "temperature": settings.get("sampling.temperature"),
            "tasks": str(len(result.rows)),
            "samples": str(result.num_samples),
        }
        have = {label for label, _ in facts}
        facts += [(label, text) for label, text in found.items() if text and label not in have]
    return facts


def environment_facts(environment: Mapping[str, Any]) -> Facts:
    """Versions, commit and machine, as recorded when the run began."""
    if not environment:
        return []
    facts = [("python", str(environment.get("python", "")))]
    facts += [(k, str(v)) for k, v in (environment.get("packages") or {}).items()]
    if git := environment.get("git"):
        changed = len(git["changed"])
        note = f" with {changed} changed file{'s' * (changed != 1)}" if changed else ""
        facts.append(("commit", git["commit"][:12] + note))
    return facts + [(k, v) for k, v in flatten(environment.get("machine") or {}) if v]


def flatten(data: Mapping[str, Any], prefix: str = "") -> Facts:
    """Nested settings as dotted names and text."""
    facts: Facts = []
    for key, value in data.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            facts += flatten(value, f"{name}.")
        elif isinstance(value, (list, tuple)):
            facts.append((name, ", ".join(map(str, value))))
        else:
            facts.append((name, f"{value:g}" if isinstance(value, float) else str(value)))
    return facts
