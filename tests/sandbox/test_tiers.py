"""What is left where namespaces are refused, as in a default container: made here by a filter
on `unshare` and `mount` that the host process puts on itself."""

import json
import subprocess
import sys

import pytest

from palestra.sandbox import LocalSandbox
from palestra.sandbox.local import landlock, seccomp

HOST = """
import errno, json, os, time
from palestra.sandbox import LocalSandbox, SandboxError
from palestra.sandbox.local import kernel, seccomp
machine = seccomp.machine()
code = seccomp._prologue(machine) + seccomp._on_call(
    machine.calls["unshare"], [seccomp._op(0x06, seccomp.ERRNO(errno.EPERM))])
kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
seccomp.install(machine, b"".join([*code, seccomp._op(0x06, seccomp.ALLOW)]))
secret = os.path.abspath("secret"); open(secret, "w").write("hidden answer")
found = {}
with LocalSandbox(("math", "random")) as sandbox:
    found["tier"], found["missing"] = sandbox.tier, sorted(sandbox.missing)
    with sandbox.open() as session:
        for name, code in json.load(open("programs.json")).items():
            result = session.run(code.replace("SECRET", repr(secret)), wall_s=2)
            found[name] = [result.status, result.value, result.stderr[-200:]]
        try:
            session.fork()
        except SandboxError as error:
            found["copy"] = str(error)
    folder, end = os.path.dirname(found["cwd"][1].strip("'")), time.monotonic() + 20
    while len(os.listdir(folder)) > 1 and time.monotonic() < end:  # removed by and by
        time.sleep(0.05)
    found["left"] = os.listdir(folder)
    scratch = os.path.dirname(found["cwd"][1].strip("'"))
try:
    LocalSandbox(("math",), require=("net", "pid")).open()
except SandboxError as error:
    found["strict"] = str(error)
found["scratch"] = os.path.exists(scratch)
print(json.dumps(found))
"""
PROGRAMS = {
    "cwd": "import os; os.getcwd()",
    "work": "import tempfile; open('a', 'w').write('x')\ntempfile.TemporaryFile().write(b'x')",
    "secret": "open(SECRET).read()",
    "environ": "open(f'/proc/{os.getppid()}/environ').read()",
    "memory": "open('/proc/self/mem', 'r+b')",
    "elsewhere": "open('/tmp/not-here', 'w')",
    "socket": "import socket; socket.socket()",
    "fork": "os.fork()",
    "kill": "os.kill(os.getppid(), 9)",
    "loop": "while True: pass",
    "threads": "import threading; t = threading.Thread(target=print); t.start(); t.join(); 'ran'",
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    if seccomp.machine() is None or not seccomp.usable():
        pytest.skip("needs seccomp filters")
    folder = tmp_path_factory.mktemp("host")
    (folder / "programs.json").write_text(json.dumps(PROGRAMS))
    done = subprocess.run(
        [sys.executable, "-c", HOST], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_weaker_tier_says_what_is_missing(found):
    assert found["tier"] == ("landlock" if landlock.version() else "seccomp")
    assert {"user", "pid", "net", "fs", "fork"} <= set(found["missing"])
    assert "required layers are missing" in found["strict"]
    assert "Operation not permitted" in found["strict"]
    assert "could not be copied" in found["copy"]


def test_programs_work_and_limits_hold(found):
    assert found["work"][:2] == ["ok", "1"]
    assert found["loop"][0] == "timeout"
    assert found["threads"][1] == "'ran'"


@pytest.mark.parametrize("program", ["socket", "fork", "kill"])
def test_calls_are_refused(found, program):
    assert found[program][0] == "error"
    assert "PermissionError" in found[program][2]


@pytest.mark.parametrize("program", ["secret", "environ", "memory", "elsewhere"])
def test_files_are_closed_where_there_is_landlock(found, program):
    if not landlock.version():
        pytest.skip("this kernel has no Landlock")
    assert "PermissionError" in found[program][2]


def test_nothing_is_left_on_the_disk(found):
    assert found["scratch"] is False
    assert len(found["left"]) <= 1


SEAL = """
import json, os, socket, subprocess, sys
from palestra.sandbox.local import kernel, landlock
listener = socket.create_server(("127.0.0.1", 0))
ruleset = landlock.narrow(execute="may run" in sys.argv)
kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
landlock.enter(ruleset)
os.makedirs("a"); os.makedirs("b"); open("a/f", "w").write("text"); os.rename("a/f", "b/f")
found = {"moved": open("b/f").read()}
for name, do in {
    "pipe": lambda: os.mkfifo("pipe"),
    "link": lambda: os.symlink("b/f", "link"),
    "device": lambda: os.mknod("device", 0o020600, 0),
    "socket": lambda: socket.socket(socket.AF_UNIX).bind("socket"),
    "network": lambda: socket.create_connection(listener.getsockname(), 1),
    "run": lambda: subprocess.run([sys.executable, "-c", ""], check=True),
}.items():
    try:
        do(); found[name] = ""
    except OSError as error:
        found[name] = type(error).__name__
print(json.dumps(found))
"""


@pytest.mark.parametrize("may_run", [False, True])
def test_landlock_takes_away_what_the_filter_refuses(tmp_path, may_run):
    if landlock.version() < landlock.RENAMES:
        pytest.skip("this kernel has no Landlock, or one that forbids to move files")
    done = subprocess.run(
        [sys.executable, "-c", SEAL, "may run" if may_run else ""],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout)
    assert found.pop("moved") == "text"
    assert found.pop("run") == ("" if may_run else "PermissionError")
    if landlock.version() < 4:
        del found["network"]
    assert set(found.values()) == {"PermissionError"}, found


# A process can be in sixteen domains: how many more one can enter tells how many it is in.
COUNT = """
import ctypes
call = ctypes.CDLL(None, use_errno=True).syscall
attributes = (ctypes.c_uint64 * 1)(1)
ruleset = call(444, attributes, ctypes.c_size_t(8), 0)
entered = 0
while call(446, ruleset, 0) == 0: entered += 1
entered
"""


@pytest.mark.parametrize("profile", ["compute", "process"])
def test_every_session_is_in_a_landlock_domain(profile):
    calls = ("landlock_create_ruleset", "landlock_restrict_self")
    with LocalSandbox(("math",), profile=profile, extra_calls=calls, ready=1) as sandbox:
        if sandbox.missing.keys() - {"cgroup", "fork"}:
            pytest.skip(f"not given by this machine: {sandbox.missing}")
        for _ in range(3):  # forked for it, or ready before
            with sandbox.open() as session:
                assert session.run(COUNT).value == "15"
