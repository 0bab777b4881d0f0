"""The fair gate: who is let in when, for any order of arrivals, departures and cancellations."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palestra.sandbox import SandboxError
from palestra.sandbox.local.gate import Gate, QueueFull

CLIENTS = st.sampled_from("abcd")


def order_of_entry(places: int, arrivals: list[str]) -> list[tuple[str, int]]:
    """Everybody arrives, then places are given back one at a time."""

    async def scenario() -> list[tuple[str, int]]:
        gate, order = Gate(places), []

        async def visit(client: str, number: int) -> None:
            await gate.aacquire(client)
            order.append((client, number))

        for _ in range(places):
            await gate.aacquire("holder")
        tasks = [asyncio.create_task(visit(client, i)) for i, client in enumerate(arrivals)]
        await asyncio.sleep(0)
        assert gate.waiting == len(arrivals)
        for _ in arrivals:
            gate.release()
        await asyncio.gather(*tasks)
        assert (gate.waiting, gate.held) == (0, places)
        return order

    return asyncio.run(scenario())


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 3), st.lists(CLIENTS, max_size=30))
def test_waiting_clients_take_turns_and_each_is_served_in_order(places, arrivals):
    order = order_of_entry(places, arrivals)
    left, served = Counter(arrivals), Counter()
    for client, _ in order:
        # Nobody who still waits is more than one turn behind whoever is served now.
        assert all(served[client] <= served[other] for other in left if left[other])
        served[client] += 1
        left[client] -= 1
    for client in set(arrivals):
        numbers = [number for who, number in order if who == client]
        assert numbers == sorted(numbers)


def test_ten_thousand_of_one_do_not_starve_three_of_another():
    order = order_of_entry(1, ["hog"] * 10_000 + ["meek"] * 3)
    assert [i for i, (client, _) in enumerate(order) if client == "meek"] == [1, 3, 5]


class Model:
    """A gate and the tasks at it, moved by random steps; nothing may leak or overtake."""

    def __init__(self, places: int) -> None:
        self.gate = Gate(places)
        self.places = places
        self.tasks: list[asyncio.Task[None]] = []
        self.holding = 0

    async def hold(self, client: str) -> None:
        await self.gate.aacquire(client)
        self.holding += 1

    async def step(self, kind: str, pick: int, client: str) -> None:
        waiting = [task for task in self.tasks if not task.done()]
        if kind == "arrive":
            self.tasks.append(asyncio.create_task(self.hold(client)))
        elif kind == "leave" and self.holding:
            self.holding -= 1
            self.gate.release()
        elif kind in ("cancel", "release and cancel") and waiting:
            if kind != "cancel" and self.holding:
                self.holding -= 1
                self.gate.release()  # the place may be on its way to the one cancelled now
            waiting[pick % len(waiting)].cancel()
        if pick % 2:
            await asyncio.sleep(0)


STEPS = st.tuples(
    st.sampled_from(["arrive", "arrive", "leave", "cancel", "release and cancel"]),
    st.integers(0, 100),
    CLIENTS,
)


@settings(deadline=None, max_examples=150)
@given(st.integers(1, 3), st.lists(STEPS, max_size=40))
def test_no_place_is_lost_or_made(places, steps):
    async def scenario() -> None:
        model = Model(places)
        for step in steps:
            await model.step(*step)
        for _ in range(3):
            await asyncio.sleep(0)
        waiting = sum(not task.done() for task in model.tasks)
        assert (model.gate.held, model.gate.waiting) == (model.holding, waiting)
        assert not waiting or model.holding >= model.places
        while waiting := [task for task in model.tasks if not task.done()]:
            model.holding -= 1
            model.gate.release()
            await asyncio.wait(waiting, timeout=0.01)
        for _ in range(model.holding):
            model.gate.release()
        assert (model.gate.held, model.gate.waiting) == (0, 0)

    asyncio.run(scenario())


def test_threads_and_loops_share_one_gate():
    gate, inside, most, lock = Gate(2), set(), [], threading.Lock()

    def enter(visit: object) -> None:
        with lock:
            inside.add(visit)
            most.append(len(inside))

    def block(client: str) -> None:
        for _ in range(20):
            gate.acquire(client)
            enter(client)
            inside.remove(client)
            gate.release()

    async def ask(client: str) -> None:
        for _ in range(20):
            await gate.aacquire(client)
            enter(client)
            await asyncio.sleep(0)
            inside.remove(client)
            gate.release()

    async def ask_many() -> None:
        await asyncio.gather(*(ask(f"task-{i}") for i in range(4)))

    threads = [threading.Thread(target=block, args=(f"thread-{i}",)) for i in range(3)]
    threads.append(threading.Thread(target=asyncio.run, args=(ask_many(),)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(most) == 140
    assert max(most) <= 2
    assert (gate.held, gate.waiting) == (0, 0)


@pytest.mark.parametrize("most", [0, 2])
def test_a_client_with_a_full_queue_is_refused_and_others_are_not(most):
    async def scenario() -> None:
        gate = Gate(1, max_waiting=most)
        await gate.aacquire("a")
        tasks = [asyncio.create_task(gate.aacquire("a")) for _ in range(most)]
        await asyncio.sleep(0)
        with pytest.raises(QueueFull, match=f"client 'a' has {most} runs waiting"):
            await gate.aacquire("a")
        if most:
            tasks.append(asyncio.create_task(gate.aacquire("b")))
            await asyncio.sleep(0)
            assert gate.waiting == most + 1
        for _ in tasks:
            gate.release()
        await asyncio.gather(*tasks)

    asyncio.run(scenario())


def test_closing_ends_every_wait_and_refuses_later_ones():
    gate = Gate(0)
    errors: list[str] = []

    def block() -> None:
        with pytest.raises(SandboxError) as caught:
            gate.acquire("thread")
        errors.append(str(caught.value))

    async def scenario() -> None:
        tasks = [asyncio.create_task(gate.aacquire()) for _ in range(3)]
        while gate.waiting < 4:
            await asyncio.sleep(0.001)
        gate.close("no member is left")
        for error in await asyncio.gather(*tasks, return_exceptions=True):
            errors.append(str(error))
        with pytest.raises(SandboxError, match="no member"):
            await gate.aacquire()

    thread = threading.Thread(target=block)
    thread.start()
    asyncio.run(scenario())
    thread.join(30)
    assert errors == ["no member is left"] * 4
    assert (gate.held, gate.waiting) == (0, 0)
