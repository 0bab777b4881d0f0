"""Sessions of a pool: whole ones, used from anywhere, and the views of its clients."""

from __future__ import annotations

import asyncio
import threading

import pytest
from pooled import PATIENCE_S, idle, small, wait_until

from palestra.sandbox import Pool, SandboxError, Status


@pytest.fixture(scope="module")
def shared():
    with Pool([small, small], max_running=3) as pool:
        yield pool


def test_sessions_of_a_pool_are_whole_sessions(shared):
    with shared.client("whole").open(seed=3, rollback=True) as session:
        session.write_file("in.txt", b"41")
        session.run("x = int(open('in.txt').read()) + 1; open('out.txt', 'w').write(str(x))")
        assert session.read_file("out.txt") == b"42"
        assert session.list_files() == ["in.txt", "out.txt"]
        assert session.run("input()", stdin="said").value == "'said'"
        with session.fork() as twin:
            assert twin.run("x = 0; import random; random.random()").ok
        assert session.run("x").value == "42"
        lost = session.run("x = 7\nwhile True: pass", wall_s=0.2)
        assert lost.status is Status.TIMEOUT
        assert session.run("x").value == "42"
    assert idle(shared)


def test_a_session_is_used_from_threads_and_loops_alike(shared):
    session = asyncio.run(shared.aopen())
    asyncio.run(session.arun("x = 1"))
    assert session.run("x").value == "1"
    found = []
    thread = threading.Thread(target=lambda: found.append(asyncio.run(session.arun("x + 1"))))
    thread.start()
    thread.join(PATIENCE_S)
    assert found[0].value == "2"
    asyncio.run(session.aclose())
    with pytest.raises(SandboxError, match="closed"):
        session.run("x")
    assert shared.stats().sessions_lost == 0


def test_a_blocking_call_inside_a_loop_does_not_wait_for_that_loop():
    with Pool([small], max_running=1) as pool:
        pool.run("1")

        async def scenario():
            running = asyncio.create_task(pool.arun("import time; time.sleep(0.2); 'slow'"))
            await asyncio.sleep(0.1)
            return pool.run("'blocking'").value, (await running).value

        assert asyncio.run(scenario()) == ("'blocking'", "'slow'")
        assert idle(pool)


def test_the_wait_for_a_place_is_told_and_not_counted_against_the_program():
    with Pool([small], max_running=1) as pool:

        async def scenario():
            runs = (pool.arun("import time; time.sleep(0.2)", wall_s=5) for _ in range(4))
            return await asyncio.gather(*runs)

        results = sorted(asyncio.run(scenario()), key=lambda result: result.queue_s)
        assert results[3].queue_s > 0.5
        now = pool.stats()
        assert now.queue_p99_s >= 0.5
        assert now.queue_p99_s > now.queue_p50_s
        assert now.run_p50_s >= 0.2


def test_map_keeps_order_draws_a_few_ahead_and_stops_when_left(shared):
    drawn = []

    def programs():
        for i in range(10_000):
            drawn.append(i)
            yield f"import time; time.sleep({(7 * i) % 5} / 500); print({i})"

    results = shared.map(programs(), client="map")
    assert [next(results).stdout for _ in range(30)] == [f"{i}\n" for i in range(30)]
    results.close()
    assert len(drawn) <= 60
    wait_until(lambda: idle(shared))

    async def awaited():
        return [result.stdout async for result in shared.amap(f"print({i})" for i in range(30))]

    assert asyncio.run(awaited()) == [f"{i}\n" for i in range(30)]


def test_a_view_closes_its_own_sessions_only(shared):
    view, other = shared.client("view"), shared.open()
    mine = view.open()
    forks = [] if "fork" in shared.missing else [mine.fork()]
    forks += [fork.fork() for fork in forks]
    view.close()
    for session in (mine, *forks):
        with pytest.raises(SandboxError, match="closed"):
            session.run("1")
    with pytest.raises(SandboxError, match="view of client 'view'"):
        view.run("1")
    assert other.run("1").value == "1"
    other.close()
