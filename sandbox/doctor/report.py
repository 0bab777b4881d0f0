"""What the doctor found: one row for each guarantee."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Result(StrEnum):
    """Whether a guarantee holds here."""

    HOLDS = "holds"
    BROKEN = "does not hold"
    ABSENT = "not available"  # nothing of the kind on this machine, or in this back end


@dataclass(frozen=True, slots=True)
class Row:
    """One guarantee, and what an attempt at it showed.

    Attributes:
        key: its short name, as `--require` takes it.
        title: in words.
        result, shown: whether it holds, and by what that was seen.
        advice: what to do about it, empty where it holds.
    """

    key: str
    title: str
    result: Result
    shown: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All rows, with the tier and the layers that the sandbox itself says are missing."""

    tier: str
    missing: dict[str, str]
    rows: tuple[Row, ...]

    @property
    def strong(self) -> bool:
        """Whether the back end has its full strength here."""
        return self.tier == "native" or (self.tier.startswith("docker") and not self.missing)

    def lacking(self, keys: Iterable[str]) -> list[Row]:
        """The rows among `keys` that do not hold.

        Raises:
            ValueError: a key that no row has.
        """
        rows = {row.key: row for row in self.rows}
        for key in keys:
            if key not in rows:
                raise ValueError(f"unknown guarantee {key!r}; there are {', '.join(rows)}")
        return [rows[key] for key in keys if rows[key].result is not Result.HOLDS]

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        return asdict(self)
