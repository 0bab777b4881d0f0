"""Arithmetic questions, made on demand: the task set that needs no file and no package."""

from __future__ import annotations

from hashlib import shake_128
from itertools import pairwise

from ..types import Message, Task
from .base import TaskSet, canonical_split, in_split

DEFAULT_SIZE = {"train": 1_000_000, "heldout": 1_000}
OPERATIONS = "+-*"
_MAX_ATTEMPTS = 10_000


class ArithmeticTasks(TaskSet):
    """Questions `What is 12 * 7?` with an exact integer answer.

    Task `i` is a function of (options, seed, split, i). Its random bits come from a hash
    of these, so access is random and no generator has state. Prompts that the split rule
    gives to the other split are drawn again.

    Args:
        digits: number of digits of each operand, or an inclusive (low, high) range from
            which it is drawn evenly. One digit means 0 to 9.
        operations: which of "+", "-" and "*" may appear.
        terms: operands per question. The usual precedence holds.
    """

    def __init__(
        self,
        *,
        split: str = "train",
        size: int | None = None,
        seed: int = 0,
        digits: int | tuple[int, int] = (1, 3),
        operations: str = OPERATIONS,
        terms: int = 2,
    ) -> None:
        low, high = (digits, digits) if isinstance(digits, int) else digits
        if not 1 <= low <= high <= 100:
            raise ValueError(f"digits must be within 1 and 100, low to high, got {digits!r}")
        if not operations or set(operations) - set(OPERATIONS):
            raise ValueError(f'operations must be some of "+-*", got {operations!r}')
        if not 2 <= terms <= 100:
            raise ValueError(f"terms must be between 2 and 100, got {terms}")
        self.split, self.seed = canonical_split(split), seed
        self.size = DEFAULT_SIZE[self.split] if size is None else size
        if self.size < 0:
            raise ValueError(f"size must not be negative, got {size}")
        self.digits, self.terms = (low, high), terms
        self.operations = "".join(sorted(set(operations), key=OPERATIONS.index))
        self.name = self._describe()
        # 64 bits more than the largest draw needs: its bias is then below 2**-64.
        self._num_bytes = 8 + (terms * (34 * high + 100)) // 80

    def _describe(self) -> str:
        """The options that differ from the defaults: equal names mean equal tasks."""
        low, high = self.digits
        parts = [] if self.digits == (1, 3) else [f"digits={low}" + f"-{high}" * (low < high)]
        parts += [f"operations={self.operations}"] * (self.operations != OPERATIONS)
        parts += [f"terms={self.terms}"] * (self.terms != 2)
        return f"arithmetic({','.join(parts)})" if parts else "arithmetic"

    def __len__(self) -> int:
        return self.size

    def task(self, index: int) -> Task:
        for attempt in range(_MAX_ATTEMPTS):
            operands, operators = self._draw(index, attempt)
            expression = _join(operands, operators)
            question = f"What is {expression}?"
            if in_split(question, self.split):
                break
        else:
            raise ValueError(
                f"{self.name!r} has too few different questions to fill its {self.split} split: "
                f"use more digits, terms or operations"
            )
        return Task(
            id=f"{self.name}/{self.split}/{self.seed}/{index}",
            prompt=(Message("user", question),),
            reference=str(_evaluate(operands, operators)),
            split=self.split,
            difficulty=_difficulty(operands, operators),
            metadata={"expression": expression},
        )

    def _draw(self, index: int, attempt: int) -> tuple[list[int], list[str]]:
        key = f"{self.name}/{self.split}/{self.seed}/{index}/{attempt}".encode()
        bits = int.from_bytes(shake_128(key).digest(self._num_bytes), "little")
        low, high = self.digits
        operands, operators = [], []
        for position in range(self.terms):
            if position:
                bits, choice = divmod(bits, len(self.operations))
                operators.append(self.operations[choice])
            bits, extra = divmod(bits, high - low + 1)
            start = 10 ** (low + extra - 1) if low + extra > 1 else 0
            bits, offset = divmod(bits, 10 ** (low + extra) - start)
            operands.append(start + offset)
        return operands, operators


def _join(operands: list[int], operators: list[str]) -> str:
    rest = (f" {sign} {value}" for sign, value in zip(operators, operands[1:], strict=True))
    return f"{operands[0]}{''.join(rest)}"


def _evaluate(operands: list[int], operators: list[str]) -> int:
    """Products first, then sums from left to right."""
    total, product = 0, operands[0]
    for sign, value in zip(operators, operands[1:], strict=True):
        if sign == "*":
            product *= value
        else:
            total, product = total + product, value if sign == "+" else -value
    return total + product


def _difficulty(operands: list[int], operators: list[str]) -> float:
    """Single-digit steps of the schoolbook methods, neighbour by neighbour."""
    lengths = [len(str(value)) for value in operands]
    return float(
        sum(
            left * right if sign == "*" else max(left, right)
            for sign, (left, right) in zip(operators, pairwise(lengths), strict=True)
        )
    )
