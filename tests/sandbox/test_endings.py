"""Ends that a program, or the host itself, brings about in the middle of things."""

import asyncio
import json
import threading

import pytest
from far_end import FarEnd, follow

from palestra.sandbox import SandboxError, Status
from palestra.sandbox.local import wire
from palestra.sandbox.local.verdict import ending

# The first thread ends by itself; another forges the answer and keeps the process alive.
LEADERLESS = """
import ctypes, os, platform, threading, time
def forge():
    time.sleep(0.2)
    os.write(3, b'.{"id": 1}')
    time.sleep(1000)
threading.Thread(target=forge).start()
ctypes.CDLL(None).syscall(60 if platform.machine() == "x86_64" else 93, 0)
"""
FORGED = wire.EXIT + json.dumps({"status": -9, "reason": "cpu"}).encode()
ACCOUNT = wire.EXIT + json.dumps({"status": 7, "reason": ""}).encode()


@pytest.mark.parametrize("before", [[], [FORGED]])
def test_empty_packets_do_not_hide_how_a_process_ended(before):
    far = FarEnd()
    try:
        ready = [(0, wire.READY, 0), (0, wire.PROCESS, 1)]
        assert follow(far, far.process.await_ready(60.0), ready) is None
        call = far.process.exchange([], 1, 60.0)
        next(call)
        for packet in (*before, *[b""] * 200, ACCOUNT):
            far._ends[0].send(packet)
        reply = follow(far, _hung_up(far, call), [])
        assert not isinstance(reply, SandboxError)
        assert ending(reply, far.process).phrase == "exited with code 7"
    finally:
        far.close()


def _hung_up(far, call):
    far._ends[0].close()
    return (yield from call)


def test_files_of_a_process_without_its_first_thread(native):
    with native.open() as session:
        assert session.run(LEADERLESS).status is Status.OK
        found = []
        thread = threading.Thread(target=lambda: found.append(session.list_files()), daemon=True)
        thread.start()
        thread.join(30)
        assert found == [[]]
        assert "between two calls" in session.run("1").stderr


def test_closing_in_a_call_ends_it_and_disturbs_no_other(sandbox):
    async def scenario():
        one = await sandbox.aopen()
        call = asyncio.create_task(one.arun("import time; time.sleep(100)", wall_s=60))
        await asyncio.sleep(0.2)
        one.close()
        async with asyncio.timeout(20):
            two = await sandbox.aopen()
            assert (await two.arun("1 + 1", wall_s=60)).value == "2"
            with pytest.raises(SandboxError, match="closed"):
                await call
        two.close()

    asyncio.run(scenario())


def test_closing_in_another_thread_ends_a_call(sandbox):
    session, found = sandbox.open(), []

    def use():
        try:
            session.run("import time; time.sleep(100)", wall_s=60)
        except SandboxError as error:
            found.append(str(error))

    thread = threading.Thread(target=use, daemon=True)
    thread.start()
    thread.join(0.3)
    session.close()
    thread.join(20)
    assert found == ["the session was closed"]
    with pytest.raises(SandboxError, match="closed"):
        session.run("1")
