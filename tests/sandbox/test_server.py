"""The fork server's life: lazily started, replaced when it dies, never left behind."""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from palestra.sandbox import Limits, LocalSandbox, SandboxError, shared_sandbox
from palestra.sandbox.local.config import LAYERS


def _gone(pid, within=10.0):
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


def _children(pid):
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in children.split()]


def _everyone_below(pid):
    found = []
    for child in _children(pid):
        found += [child, *_everyone_below(child)]
    return found


@pytest.fixture
def small():
    with LocalSandbox(("math",)) as made:
        yield made


def test_killing_the_server_raises_from_the_call_and_the_next_open_works(small):
    session = small.open()
    threading.Timer(0.3, os.kill, (small.server_pid, signal.SIGKILL)).start()
    with pytest.raises(SandboxError):
        session.run("while True: pass")
    with pytest.raises(SandboxError, match="lost"):
        session.run("1")
    with small.open() as fresh:
        assert fresh.run("1").value == "1"


def test_killing_the_server_between_calls_raises_from_the_next(small):
    session = small.open()
    session.run("x = 1")
    everyone = _everyone_below(small.server_pid)
    os.kill(small.server_pid, signal.SIGKILL)
    assert all(_gone(pid) for pid in everyone)
    with pytest.raises(SandboxError):
        session.run("x")


def test_no_process_outlives_the_sandbox():
    sandbox = LocalSandbox(("math",), ready=0)
    sessions = [sandbox.open() for _ in range(3)]
    pids = [sandbox.server_pid, *_everyone_below(sandbox.server_pid)]
    assert len(pids) == 3 + len(sessions)  # keeper, zygote, server
    sandbox.close()
    sandbox.close()
    assert all(_gone(pid) for pid in pids)
    with pytest.raises(SandboxError, match="closed"):
        sandbox.open()
    with pytest.raises(SandboxError):
        sessions[0].run("1")


HOST = """
import sys, threading
from palestra.sandbox import LocalSandbox
sandbox = LocalSandbox(("math",), ready=0)
made = []
# From a thread that ends: PDEATHSIG alone would kill the server here.
starter = threading.Thread(target=lambda: made.append(sandbox.open()))
starter.start(); starter.join()
assert made[0].run("1").value == "1"
print(sandbox.server_pid, flush=True)
made[0].run("while True: pass", wall_s=60)
"""


def test_everything_dies_with_a_killed_host():
    host = subprocess.Popen([sys.executable, "-c", HOST], stdout=subprocess.PIPE, text=True)
    server = int(host.stdout.readline())
    pids = [server, *_everyone_below(server)]
    assert len(pids) == 4
    host.kill()
    host.wait()
    host.stdout.close()
    assert all(_gone(pid) for pid in pids)


def test_a_copy_by_pickle_is_its_configuration(small):
    limits = Limits(wall_s=3)
    with LocalSandbox(("math",), limits=limits, max_running=3) as original:
        with original.open() as session:
            session.run("1")
        with pickle.loads(pickle.dumps(original)) as copy, copy.open() as session:
            assert session.run("1").value == "1"
            assert copy.server_pid != original.server_pid
            assert copy.config == original.config


def test_a_forked_host_gets_a_server_of_its_own(small):
    session = small.open()
    session.run("x = 1")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with pytest.raises(SandboxError):
                session.run("x")
            with small.open() as own:
                os.write(write, own.run("2").value.encode())
            small.close()
        finally:
            os._exit(0)
    os.close(write)
    assert os.read(read, 10) == b"2"
    os.close(read)
    os.waitpid(child, 0)
    assert session.run("x").value == "1"


def test_shared_sandbox_is_one_while_it_is_held():
    one, two = shared_sandbox(), shared_sandbox()
    assert one is two
    with one.open() as session:
        assert session.run("1").value == "1"
    server = one.server_pid
    del one, two, session
    assert _gone(server)


def test_absent_preload_is_skipped_and_unknown_layers_are_named():
    with LocalSandbox(("math", "no_such_module_anywhere")) as sandbox, sandbox.open() as session:
        assert session.run("1").value == "1"
    with pytest.raises(ValueError, match="unknown layer 'disk'"):
        LocalSandbox(require=("disk",))
    for places in (0, -1):
        with pytest.raises(ValueError, match="max_running must be at least 1"):
            LocalSandbox(max_running=places)


def test_required_layers_are_there_or_no_session_opens(small):
    missing = small.missing
    require = tuple(layer for layer in LAYERS if layer in missing)
    if not require:
        with LocalSandbox(("math",), require=LAYERS) as strict, strict.open() as session:
            assert session.run("1").value == "1"
        return
    strict = LocalSandbox(("math",), require=require)
    with strict, pytest.raises(SandboxError, match="required layers are missing"):
        strict.open()


def test_tier_follows_from_what_is_missing(small):
    assert small.tier in ("native", "landlock", "seccomp", "unsafe")
    assert (small.tier == "native") == (not small.missing.keys() & {"user", "pid", "net", "fs"})
