"""Counts of what a sandbox did, seeds that go on, and clocks that hold."""

import asyncio
import threading
import time

import pytest

from palestra.sandbox import Limits, LocalSandbox, Status
from palestra.sandbox.local.config import Config
from palestra.sandbox.local.session import _seed

KILLS = {
    "wall": "while True: pass",
    "output": "import os\nwhile True: os.write(1, b'x' * 9999)",
    "protocol": "import os, time; os.write(3, b'no frame'); time.sleep(9)",
}


def test_everything_is_counted_by_what_became_of_it():
    with LocalSandbox(("math",), limits=Limits(cpu_s=0.3)) as sandbox:
        first = sandbox.open()
        for code in ("1", "2", "1 / 0", "import os; os._exit(1)"):
            first.run(code)
        for name, code in KILLS.items():
            first.run(code, wall_s=0.2 if name == "wall" else 20)
        first.run("while True: pass", wall_s=5)
        stats = sandbox.stats()
        assert (stats.opened, stats.open, stats.forked, stats.lost) == (1, 1, 0, 0)
        assert stats.calls == sum(stats.by_status.values()) == 8
        assert stats.by_status == {
            Status.OK: 2, Status.ERROR: 1, Status.CRASHED: 2, Status.TIMEOUT: 2, Status.OUTPUT: 1
        }  # fmt: skip
        assert stats.kills == {"wall": 1, "output": 1, "protocol": 1, "cpu": 1}
        assert 0.5 < stats.run_s < 60
        first.close()
        first.close()
        assert sandbox.stats().open == 0


def test_forks_and_losses_are_counted(native):
    with LocalSandbox(("math",)) as sandbox:
        session = sandbox.open()
        copies = [session.fork() for _ in range(2)]
        stats = sandbox.stats()
        assert (stats.opened, stats.forked, stats.open) == (1, 2, 3)
        copies[0].close()
        assert sandbox.stats().open == 2
        del copies, session
        assert sandbox.stats().open == 0


def test_a_call_that_is_cancelled_is_a_kill_and_no_call(sandbox):
    before = sandbox.stats()

    async def scenario():
        with sandbox.open() as session, pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(session.arun("while True: pass"), 0.2)

    asyncio.run(scenario())
    after = sandbox.stats()
    assert after.calls == before.calls
    assert after.kills.get("interrupted", 0) == before.kills.get("interrupted", 0) + 1


def test_time_in_the_queue_is_told_and_is_no_run_time():
    with LocalSandbox(("math",), max_running=1) as narrow:

        async def scenario():
            sessions = [await narrow.aopen() for _ in range(3)]
            return await asyncio.gather(*(s.arun("import time; time.sleep(0.2)") for s in sessions))

        results = asyncio.run(scenario())
        waits = sorted(result.queue_s for result in results)
        assert waits[0] < waits[1] < waits[2]
        assert waits[2] > 0.39
        assert all(0.2 <= result.duration_s < result.queue_s + 1 for result in results)
        stats = narrow.stats()
        assert stats.queue_s == pytest.approx(sum(waits))
        assert stats.run_s == pytest.approx(sum(result.duration_s for result in results))


def test_threads_lose_no_count():
    with LocalSandbox(("math",)) as sandbox:

        def use():
            with sandbox.open() as session:
                for _ in range(25):
                    session.run("1")

        threads = [threading.Thread(target=use) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stats = sandbox.stats()
        assert (stats.opened, stats.open, stats.calls) == (8, 0, 200)


def test_seeds_of_any_size_and_what_comes_after_a_kill(sandbox):
    seeds = [0, 1, -1, 7, 1 << 63, 1 << 64, -(1 << 70), 10**5000]
    assert len({_seed(seed, 0) for seed in seeds}) == len(seeds)
    assert {_seed(seed, 0) for seed in (0, 1, 7)} == {0, 1, 7}
    assert len({_seed(1, calls) for calls in range(100)}) == 100
    assert all(0 <= _seed(seed, calls) < 1 << 64 for seed in seeds for calls in (0, 1))
    for seed in seeds:
        with sandbox.open(seed=seed) as session:
            assert session.run("import random, numpy; random.random()").ok


def test_random_numbers_carry_on_between_calls_and_in_copies(native):
    draw = "import random, numpy; (random.random(), numpy.random.rand())"
    with native.open(seed=4) as session:
        drawn = [session.run(draw).value for _ in range(3)]
        assert len(set(drawn)) == 3
        with session.fork() as one, session.fork() as two:
            following = [each.run(draw).value for each in (session, one, two)]
            assert len(set(following)) == 1
            for each in (one, two):  # what follows an end is as much decided as what was before
                each.run("import os; os._exit(1)")
            assert one.run(draw).value == two.run(draw).value not in drawn + following


def test_a_configuration_is_one_value():
    with LocalSandbox(("math",), require=("seccomp",), max_running=3) as sandbox:
        assert sandbox.config == Config(("math",), Limits(), ("seccomp",), 3)
        assert sandbox.__reduce__()[1] == (sandbox.config,)


CLOCKS = {
    "blocks every signal": "import signal; signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n"
    "while True: pass",
    "catches everything": "while True:\n  try:\n    while True: pass\n  except BaseException: pass",
    "holds the lock in C": "x = 3 ** (10 ** 9)",
    "a hopeless pattern": "import re; re.match(r'(a+)+$', 'a' * 64 + 'b')",
    "sixty busy threads": "import threading, hashlib\ndef f():\n  while True: pass\n"
    "for _ in range(60): threading.Thread(target=f).start()\nf()",
    "much memory to give back": "a = [bytearray(b'x' * (1 << 20)) for _ in range(800)]\n"
    "while True: pass",
    "sleeps": "import time; time.sleep(1000)",
    "stops itself": "import signal, threading\n"
    "signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)",
    "closes its socket": "import os; os.close(3)\nwhile True: pass",
    "writes to its socket": "import os\nwhile True: os.write(3, b'+')",
}


@pytest.mark.parametrize("code", CLOCKS.values(), ids=CLOCKS)
def test_a_call_is_back_when_its_time_is_over(native, code):
    """Seconds of slack for a busy machine; on a quiet one it is a tenth of one."""
    with native.open(Limits(cpu_s=60)) as session:
        start = time.monotonic()
        result = session.run(code, wall_s=0.6)
        assert time.monotonic() - start < 5.6
        assert result.status in (Status.TIMEOUT, Status.CRASHED)
        assert session.run("1").value == "1"
