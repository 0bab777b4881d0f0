"""The asynchronous twins: no thread, no loop of their own, fair under load, cancellable."""

import asyncio
import threading

import pytest

from palestra.sandbox import LocalSandbox, SandboxError, Status
from palestra.sandbox.local.gate import Gate


def test_arun_and_run_see_one_session(session):
    asyncio.run(session.arun("x = 1"))
    assert session.run("x").value == "1"
    assert asyncio.run(session.arun("x + 1")).value == "2"


def test_afork(native):
    async def scenario():
        session = await native.aopen()
        await session.arun("x = 1")
        copies = [await session.afork() for _ in range(3)]
        results = await asyncio.gather(*(c.arun(f"x + {i}") for i, c in enumerate(copies)))
        for one in (session, *copies):
            one.close()
        return [result.value for result in results]

    assert asyncio.run(scenario()) == ["1", "2", "3"]


def test_a_thousand_calls_in_one_loop(sandbox):
    async def scenario():
        sessions = [await sandbox.aopen() for _ in range(20)]

        async def use(session, first):
            return [(await session.arun(f"{first + i} * 2")).value for i in range(50)]

        found = await asyncio.gather(*(use(s, 50 * i) for i, s in enumerate(sessions)))
        for session in sessions:
            session.close()
        return [value for values in found for value in values]

    assert asyncio.run(scenario()) == [str(2 * i) for i in range(1000)]


def test_queueing_does_not_count_against_the_wall_clock(native):
    with LocalSandbox(("math",), max_running=1) as narrow:

        async def scenario():
            sessions = [await narrow.aopen() for _ in range(6)]
            runs = (s.arun("import time; time.sleep(0.2)", wall_s=1.0) for s in sessions)
            return await asyncio.gather(*runs)

        assert {result.status for result in asyncio.run(scenario())} == {Status.OK}


def test_the_loop_stays_free_while_a_program_runs(session):
    async def scenario():
        ticks = 0
        task = asyncio.create_task(session.arun("import time; time.sleep(0.4)"))
        while not task.done():
            await asyncio.sleep(0.01)
            ticks += 1
        return ticks

    assert asyncio.run(scenario()) > 5


def test_cancelling_a_call_ends_the_interpreter(session):
    async def scenario():
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(session.arun("x = 1\nwhile True: pass"), 0.3)
        return await session.arun("2")

    after = asyncio.run(scenario())
    assert after.value == "2"
    assert "interrupted" in after.stderr


def test_two_calls_at_once_are_refused(session):
    async def scenario():
        first = asyncio.create_task(session.arun("import time; time.sleep(0.3); 1"))
        await asyncio.sleep(0.1)
        with pytest.raises(RuntimeError, match="another call"):
            await session.arun("2")
        return await first

    assert asyncio.run(scenario()).value == "1"


def test_many_threads_share_a_sandbox(sandbox):
    found = []

    def use(i):
        with sandbox.open() as session:
            found.append(session.run(f"{i} + 100").value)

    threads = [threading.Thread(target=use, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(str(100 + i) for i in range(16))


def test_gate_hands_over_in_order_and_survives_cancellation():
    async def scenario():
        gate, order = Gate(1), []
        await gate.aacquire()

        async def wait(name):
            await gate.aacquire()
            order.append(name)
            gate.release()

        tasks = [asyncio.create_task(wait(i)) for i in range(5)]
        await asyncio.sleep(0)
        tasks[2].cancel()
        await asyncio.sleep(0)
        gate.release()
        await asyncio.gather(*tasks, return_exceptions=True)
        await gate.aacquire()
        return order

    assert asyncio.run(scenario()) == [0, 1, 3, 4]


def test_a_blocking_call_inside_a_loop_does_not_wait_for_that_loop():
    with LocalSandbox(("math",), max_running=1) as narrow:

        async def scenario():
            one, two = await narrow.aopen(), await narrow.aopen()
            running = asyncio.create_task(one.arun("import time; time.sleep(0.2); 'slow'"))
            await asyncio.sleep(0.1)
            return two.run("'blocking'").value, (await running).value, (await two.arun("3")).value

        assert asyncio.run(scenario()) == ("'blocking'", "'slow'", "3")


def test_gate_passes_over_a_closed_loop():
    gate = Gate(1)
    gate.acquire()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(_start_waiting(loop, gate))
    loop.close()
    gate.release()
    gate.acquire()


async def _start_waiting(loop, gate):
    task = loop.create_task(gate.aacquire())
    await asyncio.sleep(0)
    assert not task.done()
    _abandoned.append(task)


_abandoned = []


def test_closing_the_sandbox_in_a_call_raises():
    sandbox = LocalSandbox(("math",))

    async def scenario():
        session = await sandbox.aopen()
        task = asyncio.create_task(session.arun("while True: pass"))
        await asyncio.sleep(0.2)
        sandbox.close()
        with pytest.raises(SandboxError):
            await task

    asyncio.run(scenario())
