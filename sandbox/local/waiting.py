"""One protocol, two ways to wait.

A conversation with a session is written once, as a generator that yields a `Wait` whenever it
needs the kernel, and a `Gate` when it wants to enter there. `drive` runs it blocking with
poll(2), `adrive` runs it on whatever asyncio loop is current, with no thread and no state bound
to a loop.
"""

from __future__ import annotations

import asyncio
import select
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from .gate import Gate

T = TypeVar("T")


@dataclass(slots=True)
class Wait:
    """Until one of these descriptors is ready, or `until` (monotonic seconds) has passed."""

    read: Sequence[int]
    until: float
    write: Sequence[int] = ()


Conversation = Generator[Wait | Gate, None, T]


def drive(conversation: Conversation[T]) -> T:
    """Run a conversation to its end, blocking this thread."""
    try:
        while True:
            wait = next(conversation)
            if isinstance(wait, Gate):
                wait.acquire()
                continue
            poller = select.poll()
            for descriptor in wait.read:
                poller.register(descriptor, select.POLLIN)
            for descriptor in wait.write:
                poller.register(descriptor, select.POLLOUT)
            # An hour at most, as poll takes no more than 2^31 ms; who waits longer asks again.
            poller.poll(min(3600.0, max(0.0, wait.until - time.monotonic())) * 1000 + 1)
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        conversation.close()


async def adrive(conversation: Conversation[T]) -> T:
    """Run a conversation to its end; cancelling it closes the generator."""
    try:
        while True:
            wait = next(conversation)
            await (wait.aacquire() if isinstance(wait, Gate) else _ready(wait))
    except StopIteration as stop:
        value: T = stop.value
        return value
    finally:
        conversation.close()


async def _ready(wait: Wait) -> None:
    loop = asyncio.get_running_loop()
    woken: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    timer = loop.call_later(max(0.0, wait.until - time.monotonic()), wake)
    for descriptor in wait.read:
        loop.add_reader(descriptor, wake)
    for descriptor in wait.write:
        loop.add_writer(descriptor, wake)
    try:
        await woken
    finally:
        timer.cancel()
        for descriptor in wait.read:
            loop.remove_reader(descriptor)
        for descriptor in wait.write:
            loop.remove_writer(descriptor)
