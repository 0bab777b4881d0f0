"""The pool, over real local sandboxes that are killed, stopped and worn out on the way."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import pickle
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pooled import PATIENCE_S, gone, idle, small, wait_until

from palestra.sandbox import Limits, LocalSandbox, Pool, SandboxError, Status
from palestra.sandbox.doctor.outside import descendants
from palestra.sandbox.pool import QueueFull


@pytest.fixture(scope="module")
def shared():
    with Pool([small, small], max_running=3) as pool:
        yield pool


def server_of(sandbox: LocalSandbox) -> int:
    """The server proper: what `server_pid` has forked."""
    launcher = sandbox.server_pid
    return int(Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()[0])


def asked(pool: Pool) -> int:
    now = pool.stats()
    return now.finished + now.interrupted + now.cancelled + now.refused


def test_many_runs_of_many_clients_and_no_thread_for_each(shared):
    before, threads = asked(shared), []

    async def scenario():
        async def one(i):
            result = await shared.arun(f"print({i})", client=f"client-{i % 7}")
            threads.append(threading.active_count())
            return result.stdout

        return await asyncio.gather(*(one(i) for i in range(150)))

    known = threading.active_count()
    assert asyncio.run(scenario()) == [f"{i}\n" for i in range(150)]
    assert max(threads) <= known + 1  # the pool's own
    assert asked(shared) == before + 150
    assert idle(shared)
    assert all(member.opened > 20 for member in shared.stats().members)


def test_three_runs_do_not_wait_for_two_hundred_of_another_client():
    with Pool([small], max_running=1) as pool:
        order = []

        async def one(client):
            await pool.arun("1", client=client)
            order.append(client)

        async def scenario():
            hog = [asyncio.create_task(one("hog")) for _ in range(200)]
            await asyncio.sleep(0)
            await asyncio.gather(*(one("meek") for _ in range(3)))
            for task in hog:
                task.cancel()
            await asyncio.gather(*hog, return_exceptions=True)

        asyncio.run(scenario())
        assert order.index("meek") <= 3
        assert Counter(order)["hog"] <= 6
        assert idle(pool)


PROGRAMS = st.sampled_from(
    [
        ("print('fine')", Status.OK),
        ("1 / 0", Status.ERROR),
        ("import os; os._exit(3)", Status.CRASHED),
        ("while True: print('x' * 4096)", Status.OUTPUT),
        ("import time; time.sleep(0.005)", Status.OK),
    ]
)
PLANS = st.lists(st.tuples(PROGRAMS, st.sampled_from("abc"), st.integers(0, 9)), max_size=14)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(PLANS)
def test_every_run_is_counted_once_and_no_place_is_lost(shared, plans):
    before = shared.stats()

    async def scenario():
        tasks = []
        for (code, _), client, delay in plans:
            tasks.append(asyncio.create_task(shared.arun(code, client=client)))
            if delay < 3:  # given up at once, while it waits, or somewhere on its way
                await asyncio.sleep(delay / 1000)
                tasks[-1].cancel()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = asyncio.run(scenario())
    cancelled = sum(isinstance(result, asyncio.CancelledError) for result in results)
    statuses = Counter(r.status.value for r in results if not isinstance(r, BaseException))
    for result, ((_, expected), _, _) in zip(results, plans, strict=True):
        assert isinstance(result, asyncio.CancelledError) or result.status is expected
    after = shared.stats()
    never_started = cancelled - (after.cancelled - before.cancelled)
    assert 0 <= never_started <= sum(delay == 0 for _, _, delay in plans)
    assert Counter(after.executions) - Counter(before.executions) == statuses
    assert (after.interrupted, after.sessions_lost) == (before.interrupted, before.sessions_lost)
    assert idle(shared)


def test_a_run_whose_member_is_killed_is_an_error_and_the_member_comes_back():
    with small() as local, Pool([local], max_running=2) as pool:
        live = pool.open()
        live.run("x = 1")

        async def scenario():
            task = asyncio.create_task(pool.arun("import time; time.sleep(15)"))
            while not any(member.running for member in pool.stats().members):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.2)
            os.kill(local.server_pid, signal.SIGKILL)
            with pytest.raises(SandboxError):
                await task
            return await pool.arun("print('again')")

        assert asyncio.run(scenario()).stdout == "again\n"
        with pytest.raises(SandboxError):
            live.run("x")
        with pytest.raises(SandboxError):
            live.run("x")
        wait_until(lambda: pool.stats().members[0].state == "ready")
        now = pool.stats()
        assert (now.interrupted, now.sessions_lost) == (3, 2)
        assert now.members[0].failures >= 1
        assert now.members[0].error


def test_a_member_killed_while_nothing_runs_costs_nobody_a_run():
    with small() as one, small() as two, Pool([one, two], max_running=4) as pool:
        for local in (one, two):
            pool.roster.ready()
            wait_until(lambda: all(member.state == "ready" for member in pool.stats().members))
            pids = [local.server_pid, *descendants(local.server_pid)]
            os.kill(local.server_pid, signal.SIGKILL)
            wait_until(lambda pids=pids: all(map(gone, pids)))
            results = list(pool.map([f"print({i})" for i in range(30)]))
            assert [result.stdout for result in results] == [f"{i}\n" for i in range(30)]
        assert pool.stats().interrupted == 0


def test_under_killings_every_run_gives_its_own_answer_or_an_error():
    with Pool([small, small], max_running=4) as pool:
        pool.run("1")

        async def scenario():
            runs = [
                asyncio.create_task(pool.arun(f"print({i})", client=f"c{i % 9}"))
                for i in range(150)
            ]
            for _ in range(3):
                seen = asked(pool)
                while asked(pool) < seen + 25:
                    await asyncio.sleep(0.005)
                for sandbox in await asyncio.to_thread(pool.roster.ready):
                    os.kill(sandbox.server_pid, signal.SIGKILL)
            return await asyncio.gather(*runs, return_exceptions=True)

        results = asyncio.run(scenario())
        failed = [result for result in results if isinstance(result, BaseException)]
        assert all(isinstance(error, SandboxError) for error in failed)
        answers = [result.stdout for result in results if not isinstance(result, BaseException)]
        expected = [f"{i}\n" for i, r in enumerate(results) if not isinstance(r, BaseException)]
        assert answers == expected
        assert len(failed) <= 30
        now = pool.stats()
        assert (now.finished, now.interrupted) == (len(answers) + 1, len(failed))
        assert pool.run("2").value == "2"
        assert idle(pool)


def test_a_member_that_hangs_is_replaced_after_a_check():
    with small() as local, Pool([local], check_every_s=0.2, check_s=3.0) as pool:
        assert pool.run("1").value == "1"
        stopped = server_of(local)
        os.kill(stopped, signal.SIGSTOP)
        wait_until(lambda: pool.stats().members[0].started == 2)
        assert pool.run("2").value == "2"
        member = pool.stats().members[0]
        assert "more than 3 s" in member.error
        wait_until(lambda: gone(stopped))


class Flaky:
    """Makes a sandbox after some refusals."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals

    def __call__(self) -> LocalSandbox:
        if self.refusals > 0:
            self.refusals -= 1
            raise OSError("no room at the inn")
        return small()


def test_others_serve_while_a_member_does_not_start():
    with Pool([small, Flaky(2)]) as pool:
        assert pool.run("'served'").value == "'served'"
        wait_until(lambda: all(member.state == "ready" for member in pool.stats().members))
        flaky = pool.stats().members[1]
        assert (flaky.failures, flaky.error) == (2, "OSError: no room at the inn")


def test_callers_wait_for_a_late_member_but_not_for_a_hopeless_one():
    with Pool([Flaky(2)]) as pool:
        assert pool.run("'late'").value == "'late'"
    maker = Flaky(4)
    with Pool([maker]) as pool:
        with pytest.raises(SandboxError, match=r"no member .* starts .*no room at the inn"):
            pool.run("1")
        wait_until(lambda: pool.stats().members[0].state == "ready")
        assert pool.run("'back'").value == "'back'"


def test_a_request_that_no_member_can_serve_is_refused_and_harms_none(shared):
    with pytest.raises(SandboxError, match="could not be set up"):
        shared.run("1", limits=Limits(descriptors=1))
    assert shared.run("1").value == "1"
    wait_until(lambda: all(member.state == "ready" for member in shared.stats().members))
    assert {member.started for member in shared.stats().members} == {1}


def test_a_worn_member_gets_a_fresh_life_and_open_sessions_go_on():
    with Pool([small], recycle_sessions=10, max_running=2) as pool:
        old = pool.open()
        old.run("kept = 'still here'")
        first = pool.roster.ready()[0].server_pid
        while pool.stats().members[0].recycled < 1:
            pool.run("1")
            time.sleep(0.02)
        assert pool.roster.ready()[0].server_pid != first
        assert old.run("kept").value == "'still here'"
        old.fork().run("while True: pass", wall_s=0.1)
        assert pool.stats().kills == {"wall": 1}
        assert old.fork().run("kept").value == "'still here'"
        assert not gone(first)
        gc.collect()
        old.close()
        wait_until(lambda: gone(first))
        assert pool.stats().members[0].failures == 0
        assert pool.stats().kills == {"wall": 1}


def test_age_alone_renews_only_what_was_used():
    with Pool([small], recycle_s=0.2) as pool:
        pool.roster.ready()
        time.sleep(0.8)
        assert pool.stats().members[0].recycled == 0
        pool.run("1")
        wait_until(lambda: pool.stats().members[0].recycled == 1)


def test_closing_ends_those_who_wait_and_those_who_run():
    pool = Pool([small], max_running=1)
    servers = [sandbox.server_pid for sandbox in pool.roster.ready()]
    blocked: list[BaseException] = []

    def block() -> None:
        try:
            pool.run("1", client="thread")
        except SandboxError as error:
            blocked.append(error)

    async def scenario():
        running = [asyncio.create_task(pool.arun("import time; time.sleep(15)"))]
        await asyncio.sleep(0.2)
        thread = threading.Thread(target=block)
        thread.start()
        running += [asyncio.create_task(pool.arun("2", client=f"c{i}")) for i in range(20)]
        while pool.stats().queued < 21:
            await asyncio.sleep(0.01)
        await pool.aclose()
        errors = await asyncio.gather(*running, return_exceptions=True)
        thread.join(PATIENCE_S)
        return [*errors, *blocked]

    errors = asyncio.run(scenario())
    assert [str(error) for error in errors] == ["the pool was closed"] * 22
    assert all(isinstance(error, SandboxError) for error in errors)
    now = pool.stats()
    assert (now.interrupted, now.refused, now.queued, now.running) == (1, 21, 0, 0)
    assert all(map(gone, servers))
    pool.close()
    for refused in (lambda: pool.run("1"), lambda: pool.open(), lambda: pool.tier):
        with pytest.raises(SandboxError, match="the pool was closed"):
            refused()


def test_a_full_queue_is_refused_for_that_client_only():
    with Pool([small], max_running=1, max_queued=2) as pool:
        pool.run("1")

        async def scenario():
            hog = pool.client("hog")
            tasks = [asyncio.create_task(hog.arun("import time; time.sleep(0.1)")) for _ in "abc"]
            while pool.stats().queued < 2:
                await asyncio.sleep(0.005)
            with pytest.raises(QueueFull, match="client 'hog' has 2 runs waiting"):
                await hog.arun("1")
            other = await pool.client("other").arun("2")
            return [result.status for result in await asyncio.gather(*tasks)], other.value

        assert asyncio.run(scenario()) == ([Status.OK] * 3, "2")
        assert pool.stats().refused == 1


def test_a_pool_pickles_as_its_configuration():
    with Pool([small, LocalSandbox(("math",))], max_running=3, recycle_s=60) as pool:
        pool.run("1")
        with pickle.loads(pickle.dumps(pool)) as copy:
            assert copy.run("2").value == "2"
            assert copy.stats().finished == 1
            assert copy.roster.care == pool.roster.care
            view = pickle.loads(pickle.dumps(copy.client("far")))
            assert view.name == "far"


def test_a_pool_that_nobody_holds_ends_its_servers():
    pool = Pool([small])
    pid = pool.roster.ready()[0].server_pid
    del pool
    gc.collect()
    wait_until(lambda: gone(pid))


def test_statistics_read_well_and_are_json(shared):
    before = shared.stats().kills
    shared.run("while True: pass", wall_s=0.1)
    shared.run("while True: pass", limits=Limits(cpu_s=0.1))
    now = shared.stats()
    assert now.kills["wall"] == before.get("wall", 0) + 1
    assert now.kills["cpu"] == before.get("cpu", 0) + 1
    assert now.executions["timeout"] >= 2
    text = str(now)
    assert f"{now.finished} finished" in text
    assert "0 Small" not in text
    assert "0 small: ready" in text
    told = json.loads(json.dumps(now.to_json()))
    assert told["finished"] == now.finished
    assert told["members"][0]["state"] == "ready"
    with Pool([small]) as fresh:
        assert fresh.stats().to_json()["queue_p50_s"] is None


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Pool([]), "one member or more"),
        (lambda: Pool([small()] * 2), "each sandbox once"),
        (lambda: Pool([small], max_running=0), "max_running must be at least 1"),
        (lambda: Pool([small], max_queued=-1), "max_queued must be at least 0"),
        (lambda: Pool([small], check_every_s=0), "check_every_s must be positive"),
    ],
)
def test_a_pool_that_makes_no_sense_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
