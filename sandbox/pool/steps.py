"""One piece of logic, two ways to run it.

What the pool does is written once, as a generator of `Step`s: calls that exist twice, as
`name` (blocking) and `aname` (to be awaited). `take` makes the plain calls, `atake` awaits.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Step:
    """`owner.name(*args, **kwargs)`, or its awaited twin."""

    owner: Any
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


Steps = Generator[Step, Any, T]


def step(owner: Any, name: str, *args: Any, **kwargs: Any) -> Step:
    """The step `owner.name(*args, **kwargs)`."""
    return Step(owner, name, args, kwargs)


def take(steps: Steps[T]) -> T:
    """Take every step, blocking this thread."""
    try:
        one = next(steps)
        while True:
            try:
                result = getattr(one.owner, one.name)(*one.args, **one.kwargs)
            except BaseException as error:  # noqa: BLE001 - the generator decides what it means
                one = steps.throw(error)
            else:
                one = steps.send(result)
    except StopIteration as stop:
        value: T = stop.value
        return value


async def atake(steps: Steps[T]) -> T:
    """Await every step; cancelling it raises CancelledError inside the generator."""
    try:
        one = next(steps)
        while True:
            try:
                result = await getattr(one.owner, f"a{one.name}")(*one.args, **one.kwargs)
            except BaseException as error:  # noqa: BLE001 - the generator decides what it means
                one = steps.throw(error)
            else:
                one = steps.send(result)
    except StopIteration as stop:
        value: T = stop.value
        return value
