"""The verifier's worker process: limits, recovery, threads, event loops, forks, exit."""

import asyncio
import os
import pickle
import signal
import subprocess
import sys
import threading
import time

import pytest

from palestra.envs.rewards import Verdict, VerifierError, VerifierPool, agrade_math, grade_math
from palestra.envs.rewards import verifier as module
from palestra.envs.rewards.math import agrade_math_batch
from palestra.envs.types import Invalid

HANGS = r"\boxed{2^{2^{2^{2^{2^{2}}}}}}"
ROOT = (r"\boxed{\sqrt{8}}", r"2\sqrt{2}")  # only math-verify can decide it


@pytest.fixture
def pool():
    pool = VerifierPool(cpu_s=1.0)
    yield pool
    pool.close()


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def worker_of(pool):
    worker = pool._slots.get()
    pool._slots.put(worker)
    return worker._process


def test_a_hang_is_cut_off_and_the_next_call_works(pool):
    assert grade_math(*ROOT, pool=pool).correct
    before = worker_of(pool).pid
    start = time.monotonic()
    grade = grade_math(HANGS, ROOT[1], pool=pool)
    assert time.monotonic() - start < 60
    assert (grade.correct, grade.method) == (False, "none")
    assert grade_math(*ROOT, pool=pool).correct
    assert worker_of(pool).pid != before


def test_a_hang_is_reported_as_a_timeout(pool):
    request = {"answer": "2^{2^{2^{2^{2^{2}}}}}", "reference": "18"}
    verdict = pool.ask("math-verify", request, cpu_s=0.3)
    assert verdict.status == "timeout"
    assert "0.3 s of CPU" in verdict.message


def test_a_verifier_that_raises_is_a_verdict(pool):
    assert pool.ask("math-verify", {"answer": "1"}).status == "failed"
    assert pool.ask("math-verify", {"answer": "1", "reference": "1"}) == Verdict("ok", True)


def test_a_lost_worker_is_replaced(pool):
    assert grade_math(*ROOT, pool=pool).correct
    os.kill(worker_of(pool).pid, signal.SIGKILL)
    assert grade_math(*ROOT, pool=pool).correct


def test_infrastructure_failure_is_invalid_never_wrong(pool, monkeypatch, tmp_path):
    script = tmp_path / "dies.py"
    script.write_text("import sys; sys.exit(3)")
    monkeypatch.setattr(module, "_SCRIPT", script)
    grade = grade_math(*ROOT, pool=pool)
    assert isinstance(grade, Invalid)
    assert grade.kind == "verifier"
    assert "ended with code 3" in grade.message
    assert isinstance(asyncio.run(agrade_math(*ROOT, pool=pool)), Invalid)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    assert "cannot start" in grade_math(*ROOT, pool=pool).message
    monkeypatch.undo()
    assert grade_math(*ROOT, pool=pool).correct


def test_a_starved_worker_is_invalid_too(monkeypatch, tmp_path):
    """Silence without using CPU time is the machine's fault, not the answer's."""
    pool = VerifierPool(cpu_s=0.1, wall_s=0.2)
    script = tmp_path / "sleeps.py"
    script.write_text("import time; time.sleep(600)")
    monkeypatch.setattr(module, "_SCRIPT", script)
    monkeypatch.setattr(module, "START_S", 0.2)
    grade = grade_math(*ROOT, pool=pool)
    assert isinstance(grade, Invalid)
    assert "no answer within the wall-clock limit" in grade.message
    pool.close()


def test_a_stopped_worker_is_replaced():
    pool = VerifierPool(cpu_s=1.0, wall_s=15.0)
    assert grade_math(*ROOT, pool=pool).correct
    stopped = worker_of(pool).pid
    pool.wall_s = 1.2
    os.kill(stopped, signal.SIGSTOP)
    pool.ask("math-verify", {"answer": "1", "reference": "1"})
    assert not is_running(stopped)
    pool.close()


@pytest.fixture
def interruptible():
    """A process that was started in the background may ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupted_call_leaves_no_answer_behind(pool, interruptible):
    """Ctrl-C between question and answer: the next question must get its own answer."""
    assert grade_math(*ROOT, pool=pool).correct
    with pytest.raises(KeyboardInterrupt):
        main = threading.main_thread().ident
        threading.Timer(0.2, signal.pthread_kill, (main, signal.SIGINT)).start()
        grade_math(HANGS, ROOT[1], pool=pool)
    assert grade_math(*ROOT, pool=pool).correct


def test_unknown_kinds_are_errors(pool):
    with pytest.raises(VerifierError, match="'arithmetic' cannot be loaded"):
        pool.ask("arithmetic", {})


def test_from_other_threads(pool):
    grades = []
    threads = [
        threading.Thread(target=lambda: grades.append(grade_math(*ROOT, pool=pool)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [grade.correct for grade in grades] == [True] * 8


def test_inside_asyncio_without_blocking_the_loop(pool):
    async def main():
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await asyncio.sleep(0.01)
                ticks += 1

        ticker = asyncio.create_task(tick())
        answers = [HANGS, ROOT[0], ROOT[0], r"\boxed{3}"]
        grades = await agrade_math_batch(answers, [ROOT[1]] * 4, pool=pool)
        ticker.cancel()
        return grades, ticks

    grades, ticks = asyncio.run(main())
    assert [grade.correct for grade in grades] == [False, True, True, False]
    assert ticks > 20
    assert asyncio.run(agrade_math(*ROOT, pool=pool)).correct  # and from another loop


def test_a_forked_copy_starts_its_own_worker(pool):
    assert grade_math(*ROOT, pool=pool).correct
    before = worker_of(pool).pid
    child = os.fork()
    if child == 0:
        good = grade_math(*ROOT, pool=pool).correct and worker_of(pool).pid != before
        pool.close()
        os._exit(0 if good else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert worker_of(pool).pid == before
    assert grade_math(*ROOT, pool=pool).correct


def test_closing_leaves_no_process_and_is_idempotent():
    pool = VerifierPool(workers=2)
    assert grade_math(*ROOT, pool=pool).correct
    process = worker_of(pool)
    pool.close()
    pool.close()
    assert process.returncode is not None
    assert not is_running(process.pid)
    assert grade_math(*ROOT, pool=pool).correct
    pool.close()


def test_no_process_outlives_the_program():
    code = (
        "from palestra.envs.rewards import *\n"
        f"assert grade_math(*{ROOT!r}).correct\n"
        "pool = default_pool()\n"
        "worker = pool._slots.get(); pool._slots.put(worker); print(worker._process.pid)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stderr == ""
    assert not is_running(int(out.stdout))


def test_a_killed_program_leaves_no_worker():
    code = (
        "from palestra.envs.rewards import *\n"
        "import os, signal\n"
        f"assert grade_math(*{ROOT!r}).correct\n"
        "pool = default_pool()\n"
        "worker = pool._slots.get(); print(worker._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    deadline = time.monotonic() + 30
    while is_running(int(out.stdout)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(int(out.stdout))


def test_pools_are_picklable_as_their_configuration():
    pool = VerifierPool(workers=2, cpu_s=1.5, wall_s=20)
    copy = pickle.loads(pickle.dumps(pool))
    assert (copy.workers, copy.cpu_s, copy.wall_s) == (2, 1.5, 20)


def test_bad_limits():
    with pytest.raises(ValueError, match="at least one worker"):
        VerifierPool(workers=0)
    with pytest.raises(ValueError, match="0 < cpu_s < wall_s"):
        VerifierPool(cpu_s=5, wall_s=5)


def test_an_answer_never_becomes_code(pool):
    r"""To sum a series, sympy writes its symbols into a function: `\dot{(f())}` as `dot(f())`."""
    series = r"\sum_{n=0}^{\infty} \frac{%s^n}{n!}"
    request = {"reference": series % 2, "answer": series % r"\dot{(exit(3))}"}
    verdict = pool.ask("math-verify", request, cpu_s=30.0)
    assert verdict == Verdict("ok", False)  # not "failed" with "SystemExit: 3"
