"""Attempts from inside: small programs that try what a sandbox shall not allow.

Each is run in a session of its own, most of them with one limit set low. What they say is
believed here, as the programs are ours.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..base import Sandbox
from ..types import Execution, Limits, SandboxError, Status
from .report import Result

Found = tuple[Result, str]
Probe = Callable[["Patient"], Found]
LIMITS = Limits(wall_s=10.0, cpu_s=10.0)
_MIB = 1 << 20


class Patient:
    """The sandbox that is looked at, and what was hidden on the host for it not to find."""

    def __init__(self, sandbox: Sandbox, secret: str, hidden: str) -> None:
        self.sandbox = sandbox
        self.secret = secret  # a word in this process's environment and in the file
        self.hidden = hidden  # path of a file that everybody on the host may read

    def run(self, code: str, **limits: Any) -> Execution:
        """Run `code` once, under the doctor's limits and these."""
        return self.sandbox.run(code, limits=replace(LIMITS, **limits))

    def ask(self, code: str, **values: object) -> Any:
        """What a program says last, as JSON; `values` are variables of the program.

        Raises:
            SandboxError: it came to no end.
        """
        given = "".join(f"{name} = {value!r}\n" for name, value in values.items())
        execution = self.run(given + code)
        try:
            return json.loads(execution.stdout.splitlines()[-1])
        except (ValueError, IndexError):
            said = f"{execution.stdout}{execution.stderr}"[-300:]
            raise SandboxError(
                f"a program of the doctor's ended {execution.status}: {said}"
            ) from None


@contextmanager
def admitted(make: Callable[[], Sandbox]) -> Iterator[Patient]:
    """Start a sandbox with something in this process's environment that it shall not know."""
    secret = f"palestra-{os.urandom(12).hex()}"
    os.environ["PALESTRA_DOCTOR"] = secret
    handle, hidden = tempfile.mkstemp(prefix="palestra-doctor-")
    try:
        os.write(handle, secret.encode())
        os.fchmod(handle, 0o644)
        with make() as sandbox:
            sandbox.run("1")
            yield Patient(sandbox, secret, hidden)
    finally:
        os.close(handle)
        Path(hidden).unlink()
        del os.environ["PALESTRA_DOCTOR"]


_ROOT = """
import json, os
inside = os.stat("/")
tried = {}
for folder in ("/", os.path.dirname(os.__file__)):
    try:
        with open(os.path.join(folder, "palestra-doctor"), "w"):
            tried[folder] = ""
        os.unlink(os.path.join(folder, "palestra-doctor"))
    except OSError as error:
        tried[folder] = error.strerror
print(json.dumps([inside.st_dev, inside.st_ino, tried]))
"""


def private_root(patient: Patient) -> Found:
    """The root is another one than the host's, and cannot be written to."""
    device, inode, tried = patient.ask(_ROOT)
    here = Path("/").stat()
    if (device, inode) == (here.st_dev, here.st_ino):
        return Result.BROKEN, "the root folder inside is that of this machine"
    written = [folder for folder, error in tried.items() if not error]
    if written:
        return Result.BROKEN, f"a file could be written to {' and '.join(written)}"
    return Result.HOLDS, f"another root; writing: {tried['/']}"


_FILES = """
import json
answers = {}
for path in paths:
    try:
        with open(path, "rb") as file:
            answers[path] = [secret in file.read(1 << 20).decode("latin-1"), "read"]
    except OSError as error:
        answers[path] = [False, error.strerror]
print(json.dumps(answers))
"""


def no_host_files(patient: Patient) -> Found:
    """A file that any user of the host may read, and this very source, cannot be opened."""
    paths = [patient.hidden, __file__, f"/proc/{os.getpid()}/environ", "/proc/1/environ"]
    answers = patient.ask(_FILES, paths=paths, secret=patient.secret)
    # A container has files by the same names: only this machine's own count.
    read = [path for path, (_, how) in answers.items() if how == "read" and path == __file__]
    read += [path for path, (ours, _) in answers.items() if ours]
    if read:
        return Result.BROKEN, f"{read[-1]} could be read"
    return Result.HOLDS, f"{patient.hidden}: {answers[patient.hidden][1]}"


_NETWORK = """
import json, socket
answers = {}
for name, family, kind, where in (
    ("this machine", socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", port)),
    ("the outside", socket.AF_INET, socket.SOCK_DGRAM, ("192.0.2.1", 9)),
    ("the outside by IPv6", socket.AF_INET6, socket.SOCK_DGRAM, ("2001:db8::1", 9)),
    ("an abstract socket", socket.AF_UNIX, socket.SOCK_STREAM, "\\0" + abstract),
):
    try:
        with socket.socket(family, kind) as end:
            end.settimeout(1.0)
            end.connect(where)
            answers[name] = ""
    except OSError as error:
        answers[name] = str(error)
print(json.dumps(answers))
"""


def no_network(patient: Patient) -> Found:
    """Neither this machine nor the outside can be reached, by any of four ways."""
    abstract = f"palestra-doctor-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(f"\0{abstract}")
        unix.listen()
        answers = patient.ask(_NETWORK, port=tcp.getsockname()[1], abstract=abstract)
    reached = [name for name, error in answers.items() if not error]
    if reached:
        return Result.BROKEN, f"a connection to {' and '.join(reached)} was made"
    return Result.HOLDS, f"connecting to this machine: {answers['this machine']}"


_ENVIRONMENT = """
import ctypes, json, os
getenv = ctypes.CDLL(None).getenv
getenv.restype = ctypes.c_char_p
known = [name for name, value in os.environ.items() if secret in value]
try:
    with open("/proc/self/environ") as file:
        known += ["/proc/self/environ"] if secret in file.read() else []
except OSError:
    pass
known += ["getenv"] if getenv(b"PALESTRA_DOCTOR") else []
print(json.dumps([known, len(os.environ)]))
"""


def no_environment(patient: Patient) -> Found:
    """A variable of this process's environment is not to be found."""
    known, count = patient.ask(_ENVIRONMENT, secret=patient.secret)
    if known:
        return Result.BROKEN, f"a variable of this process was found in {known[0]}"
    return Result.HOLDS, f"a variable set here is not there; {count} variables inside"


# By machine: unshare, ptrace, keyctl, bpf, userfaultfd, process_vm_readv, perf_event_open,
# personality, mount. io_uring_setup has one number everywhere.
_CALLS = {
    "x86_64": (272, 101, 250, 321, 323, 310, 298, 135, 165),
    "aarch64": (97, 117, 219, 280, 282, 270, 241, 92, 40),
}
_NAMES = (
    *("unshare", "ptrace", "keyctl", "bpf", "userfaultfd", "process_vm_readv"),
    *("perf_event_open", "personality", "mount", "io_uring_setup"),
)
_FILTER = """
import ctypes, errno, json
nobody = 1 << 30  # no process has this number: a call that is let in says so
libc = ctypes.CDLL(None, use_errno=True)
arguments = {
    "unshare": (0x10000000,), "ptrace": (16, nobody, 0, 0), "keyctl": (0, -3, 1),
    "bpf": (0, 0, 0), "userfaultfd": (1,), "process_vm_readv": (nobody, 0, 0, 0, 0, 0),
    "perf_event_open": (0, 0, 0, 0, 0), "personality": (0x40000,), "mount": (0, 0, 0, 0, 0),
    "io_uring_setup": (0, 0),
}
answers = {}
for name, number in numbers.items():
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments[name]))
    answers[name] = errno.errorcode.get(ctypes.get_errno(), "?") if result < 0 else ""
print(json.dumps(answers))
"""


def syscall_filter(patient: Patient) -> Found:
    """Ten system calls that no calculation needs are refused, whatever their arguments."""
    numbers = _CALLS.get(platform.machine())
    if numbers is None:
        return Result.BROKEN, f"no table of system calls for {platform.machine()}"
    calls = dict(zip(_NAMES, (*numbers, 425), strict=True))
    try:
        answers = patient.ask(_FILTER, numbers=calls)
    except SandboxError:
        one = patient.run(
            f"import ctypes; ctypes.CDLL(None).syscall({numbers[1]}, 16, 1 << 30, 0, 0)"
        )
        if one.status is Status.CRASHED:
            return Result.HOLDS, "a program that made such a call was killed"
        raise
    # Another error than these comes from the call itself: it was let in, and looked around.
    let_in = [name for name, error in answers.items() if error not in ("EPERM", "ENOSYS")]
    if let_in:
        return Result.BROKEN, f"the kernel took {', '.join(let_in)}"
    some = ", ".join(list(answers)[:4])
    return Result.HOLDS, f"{len(answers)} of {len(answers)} calls refused, such as {some}"


def memory_limit(patient: Patient) -> Found:
    """A program that takes four times its memory is stopped."""
    limit = 128 * _MIB
    done = patient.run(f"len(bytearray({4 * limit}))", memory_bytes=limit)
    if done.status is Status.MEMORY:
        return Result.HOLDS, f"512 MiB asked for with {limit // _MIB} MiB allowed: stopped"
    return Result.BROKEN, f"512 MiB asked for with {limit // _MIB} MiB allowed: {done.status}"


def cpu_limit(patient: Patient) -> Found:
    """A loop is stopped by its CPU time, long before the wall clock."""
    done = patient.run("while True: pass", cpu_s=0.3)
    if done.status is Status.TIMEOUT and done.cpu_s < LIMITS.wall_s / 2:
        return Result.HOLDS, f"0.3 s allowed: stopped after {done.cpu_s:.2f} s of CPU time"
    return Result.BROKEN, f"0.3 s allowed: {done.status} after {done.cpu_s:.2f} s of CPU time"


_TASKS = """
import json, threading
end, threads, why = threading.Event(), [], ""
try:
    for _ in range(64):
        thread = threading.Thread(target=end.wait)
        thread.start()
        threads.append(thread)
except RuntimeError as error:
    why = str(error)
end.set()
for thread in threads:
    thread.join()
print(json.dumps([len(threads), why]))
"""


def task_limit(patient: Patient) -> Found:
    """A program that starts 64 threads has no more of them than the limit."""
    done = patient.run(_TASKS, tasks=16)
    if done.status is Status.CRASHED:
        return Result.HOLDS, "64 threads started with 16 allowed: the program was ended"
    started, why = json.loads(done.stdout.splitlines()[-1]) if done.stdout else (0, done.stderr)
    if started < 64:
        return Result.HOLDS, f"16 allowed: {started} started, then {why}"
    return Result.BROKEN, "16 allowed: 64 threads could be started"


_DISK = """
import json
written, why = 0, ""
try:
    for i in range(16):
        with open(f"file-{i}", "wb") as file:
            written += file.write(bytes(1 << 20))
except OSError as error:
    why = error.strerror
print(json.dumps([written, why]))
"""
_INODES = """
import json
made, why = 0, ""
try:
    for made in range(512):
        open(f"file-{made}", "w").close()
except OSError as error:
    why = error.strerror
print(json.dumps([made, why]))
"""


def disk_quota(patient: Patient) -> Found:
    """The working folder as a whole takes so many bytes, and so many files."""
    limits = {"tmp_bytes": 4 * _MIB, "tmp_inodes": 128}
    written, full = json.loads(patient.run(_DISK, **limits).stdout or '[16777216, ""]')
    made, many = json.loads(patient.run(_INODES, **limits).stdout or '[512, ""]')
    if not full:
        return Result.BROKEN, f"4 MiB allowed: {written // _MIB} MiB written"
    if not many:
        return Result.BROKEN, f"128 files allowed: {made + 1} made"
    return Result.HOLDS, f"4 MiB and 128 files allowed: {full}, {made} files"


def output_limit(patient: Patient) -> Found:
    """A program that prints without end is stopped, and what is kept of it is small."""
    limits = {"output_bytes": 1 << 12, "output_kill_bytes": 1 << 18}
    done = patient.run("while True: print('x' * 4000)", **limits)
    kept = len(done.stdout)
    if done.status is Status.OUTPUT and kept < 2 * limits["output_bytes"]:
        return Result.HOLDS, f"256 KiB allowed: stopped, {kept} bytes of it kept"
    return Result.BROKEN, f"256 KiB allowed: {done.status}, {kept} bytes kept"


_DEAF = """
import signal, time
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
while True: time.sleep(60)
"""


def wall_clock(patient: Patient) -> Found:
    """A program that blocks every signal is ended at the wall clock."""
    start = time.monotonic()
    done = patient.run(_DEAF, wall_s=0.3)
    over = time.monotonic() - start - 0.3
    if done.status is Status.TIMEOUT and over < LIMITS.wall_s / 2:
        return Result.HOLDS, f"0.3 s allowed: back {1000 * over:.0f} ms later, signals blocked"
    return Result.BROKEN, f"0.3 s allowed: {done.status}, back {over:.1f} s later"


def fork(patient: Patient) -> Found:
    """A live session is copied, and the copy goes its own way."""
    with patient.sandbox.open(LIMITS) as session:
        session.run("x = [1]")
        start = time.monotonic()
        with session.fork() as twin:
            took = time.monotonic() - start
            twin.run("x.append(2)")
            values = session.run("x").value, twin.run("x").value
    if values == ("[1]", "[1, 2]"):
        return Result.HOLDS, f"a copy in {1000 * took:.1f} ms, independent of its original"
    return Result.BROKEN, f"original and copy were {values[0]} and {values[1]}"
