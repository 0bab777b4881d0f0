"""`audit`: every check in turn, each finding with its reason."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from .episodes import (
    groups_are_identical,
    gymnasium_accepts_it,
    hostile_actions_survive,
    interleaving_changes_nothing,
    seeds_are_honoured,
    snapshots_restore,
    time_limits_hold,
)
from .scoring import (
    floors_earn_nothing,
    oracle_scores_the_maximum,
    rewards_are_in_range,
    verdicts_repeat,
)
from .subject import Fault, Skip, Subject
from .tasksets import answers_are_hidden, everything_is_stored, ids_are_unique, splits_are_disjoint

CHECKS: dict[str, Callable[[Subject], str]] = {
    "gymnasium": gymnasium_accepts_it,
    "oracle": oracle_scores_the_maximum,
    "floor": floors_earn_nothing,
    "verdict": verdicts_repeat,
    "range": rewards_are_in_range,
    "seed": seeds_are_honoured,
    "group": groups_are_identical,
    "snapshot": snapshots_restore,
    "interleaving": interleaving_changes_nothing,
    "hostile": hostile_actions_survive,
    "timeout": time_limits_hold,
    "leak": answers_are_hidden,
    "splits": splits_are_disjoint,
    "storage": everything_is_stored,
    "ids": ids_are_unique,
}


class Status(StrEnum):
    """How a check ended."""

    PASS = "pass"
    FAIL = "fail"
    SKIP = "skip"  # the check says nothing about this environment


@dataclass(frozen=True, slots=True)
class Finding:
    """The outcome of one check: what was looked at, or what is wrong, or why it was skipped."""

    check: str
    status: Status
    detail: str
    seconds: float = 0.0

    @property
    def about(self) -> str:
        """What the check is for, in a sentence."""
        return (CHECKS[self.check].__doc__ or "").strip()


def audit(subject: Subject, only: Sequence[str] = ()) -> Iterator[Finding]:
    """Run the checks, one finding at a time as it is there.

    Raises:
        ValueError: a name in `only` is no check.
    """
    if unknown := set(only) - set(CHECKS):
        raise ValueError(f"no checks {sorted(unknown)}; there are {', '.join(CHECKS)}")
    for name in only or CHECKS:
        yield _run(name, subject)


def passed(findings: Sequence[Finding]) -> bool:
    """Whether no check failed."""
    return all(finding.status is not Status.FAIL for finding in findings)


def _run(name: str, subject: Subject) -> Finding:
    start = time.monotonic()
    try:
        status, detail = Status.PASS, CHECKS[name](subject)
    except Skip as skip:
        status, detail = Status.SKIP, str(skip)
    except Fault as fault:
        status, detail = Status.FAIL, str(fault)
    except Exception as error:  # noqa: BLE001 - an author's bug is a finding, not our end
        status, detail = Status.FAIL, f"{type(error).__name__}: {error}"
    return Finding(name, status, detail, time.monotonic() - start)
