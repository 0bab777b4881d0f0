"""One control group for a whole server: what it limits, who dies of it, and that it goes away."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from descendants import below

from palestra.sandbox import Limits, LocalSandbox, Status
from palestra.sandbox.local import cgroup

MB = 1 << 20


@pytest.fixture(scope="module")
def small():
    """A sandbox with little memory for all sessions together, and much for each."""
    limits = Limits(memory_bytes=2 << 30, wall_s=60.0, cpu_s=60.0)
    with LocalSandbox(("math",), limits=limits, total_memory_bytes=256 * MB, ready=1) as made:
        if "cgroup" in made.missing:
            pytest.skip(f"no control group here: {made.missing['cgroup']}")
        yield made


def _folders(sandbox):
    """The groups of a sandbox, by controller."""
    zygote = below(sandbox.server_pid)[0]
    lines = Path(f"/proc/{zygote}/cgroup").read_text().splitlines()
    paths = {name: path for _, names, path in (line.split(":", 2) for line in lines)
             for name in names.split(",")}  # fmt: skip
    found = {}
    for own in cgroup.hierarchies():
        for controller in own.controllers:
            name = Path(paths[controller if own.version == 1 else ""]).name
            found[controller] = next(
                Path(place, name) for place in own.places() if Path(place, name).is_dir()
            )
    return found


def test_every_process_is_in_it_and_it_has_limits(small):
    folders = _folders(small)
    with small.open() as session, small.open() as other:
        session.run("1"), other.run("1")
        everyone = set(below(small.server_pid))
        for folder in folders.values():
            assert folder.name.startswith(f"palestra-{os.getpid()}-")
            assert everyone <= set(map(int, (folder / "cgroup.procs").read_text().split()))
    files = [folders["memory"] / name for name in ("memory.max", "memory.limit_in_bytes")]
    assert [int(file.read_text()) for file in files if file.exists()] == [256 * MB]
    assert int((folders["pids"] / "pids.max").read_text()) == cgroup.default_tasks()
    swap = {"memory.memsw.limit_in_bytes": 256 * MB, "memory.swap.max": 0}
    for file, most in ((folders["memory"] / name, most) for name, most in swap.items()):
        assert not file.exists() or int(file.read_text()) == most


def test_who_takes_too_much_dies_of_it_and_nobody_else(small):
    with small.open() as bystander, small.open() as greedy:
        bystander.run("x = bytearray(64 << 20)")
        over = greedy.run("x = bytearray(400 << 20)")
        assert over.status is Status.MEMORY, over
        assert "all sessions together" in over.stderr
        assert greedy.run("1").value == "1"
        assert bystander.run("len(x)").value == str(64 * MB)
    server = small.server_pid
    for _ in range(3):
        with small.open() as greedy:
            assert greedy.run("x = bytearray(400 << 20)").status is Status.MEMORY
    assert small.server_pid == server


def test_files_count_too(small):
    limits = Limits(tmp_bytes=1 << 30, file_bytes=1 << 30, wall_s=60.0)
    with small.open() as bystander, small.open(limits) as greedy:
        over = greedy.run("f = open('f', 'wb')\nfor _ in range(400): f.write(bytes(1 << 20))")
        assert over.status in (Status.MEMORY, Status.ERROR), over
        assert bystander.run("1").value == "1"


def test_killing_oneself_is_no_proof_of_memory(small):
    with small.open() as session:
        died = session.run("import signal; signal.raise_signal(signal.SIGKILL)")
        assert died.status is Status.CRASHED
        greedy = session.run("x = bytearray(400 << 20)")
        assert greedy.status is Status.MEMORY
        died = session.run("import signal; signal.raise_signal(signal.SIGKILL)")
        assert died.status is Status.CRASHED


def test_it_goes_away_with_the_sandbox(small):
    with LocalSandbox(("math",), ready=0) as sandbox:
        sandbox.open().run("1")
        folders = _folders(sandbox).values()
        assert all(folder.is_dir() for folder in folders)
    assert not any(folder.exists() for folder in folders)


HOST = """
import sys, time
from pathlib import Path
from palestra.sandbox import LocalSandbox
sandbox = LocalSandbox(("math",))
sandbox.open().run("1")
keeper = sandbox.server_pid
zygote = int(Path(f"/proc/{keeper}/task/{keeper}/children").read_text())
print(keeper, Path(f"/proc/{zygote}/cgroup").read_text().replace("/", "\\n").split(), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("keeper_too", [False, True])
def test_it_goes_away_with_a_killed_host(small, keeper_too):
    host = subprocess.Popen([sys.executable, "-c", HOST], stdout=subprocess.PIPE, text=True)
    keeper, _, words = host.stdout.readline().partition(" ")
    name = next(word for word in eval(words) if word.startswith("palestra-"))
    assert name.split("-")[1] == str(host.pid)
    if keeper_too:
        os.kill(int(keeper), signal.SIGSTOP)
    host.kill()
    host.wait()
    host.stdout.close()
    if keeper_too:
        os.kill(int(keeper), signal.SIGKILL)
    places = [Path(place) for one in cgroup.hierarchies() for place in one.places()]
    end = time.monotonic() + 20
    while any((place / name).exists() for place in places) and time.monotonic() < end:
        time.sleep(0.05)
        if keeper_too:  # then the next server to be started sees to it
            with LocalSandbox(("math",), ready=0) as sandbox:
                assert "cgroup" not in sandbox.missing
    assert not any((place / name).exists() for place in places)
    assert all(folder.is_dir() for folder in _folders(small).values())


def test_who_may_not_make_one_is_told_why():
    code = "import os; os.setgroups([]); os.setuid(65534)\n" * (os.geteuid() == 0)
    code += (
        "try: cgroup.join(cgroup.own_name('ab'), {'memory': 1 << 30, 'pids': 100})\n"
        "except OSError as error: print('REFUSED', error)\n"
    )
    # The package is imported before the interpreter's folder may be out of reach.
    done = subprocess.run(
        [sys.executable, "-c", f"from palestra.sandbox.local import cgroup\n{code}"],
        capture_output=True,
        text=True,
    )
    if "REFUSED" not in done.stdout:
        pytest.skip("this user was given a subtree")
    assert "control group" in done.stdout
    assert "made" in done.stdout or "mounted" in done.stdout


def test_the_limit_is_no_less_than_the_server_takes():
    with pytest.raises(ValueError, match="total_memory_bytes must be at least"):
        LocalSandbox(total_memory_bytes=1 * MB)


# From machines with version 2: a plain session of a user, and a container with its own view.
USER = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-3.scope"
MOUNT = "35 24 0:30 {root} /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate"


@pytest.mark.parametrize(
    ("line", "root", "folder"),
    [
        (USER, "/", "/sys/fs/cgroup" + USER[3:]),
        ("0::/", "/", "/sys/fs/cgroup"),
        ("0::/docker/ab12", "/docker/ab12", "/sys/fs/cgroup"),
    ],
)
def test_version_2_is_found_with_all_groups_above(line, root, folder):
    mounts = [MOUNT.format(root=root).split()]
    own = cgroup._find(cgroup.CONTROLLERS, 2, line[3:], mounts)
    assert own.folder == folder
    places = list(own.places())
    assert places[0] == folder
    assert places[-1] == "/sys/fs/cgroup"
    assert len(places) == folder.count("/") - 2


def test_without_the_controller_it_says_so():
    with pytest.raises(OSError, match="no control groups for memory are mounted"):
        cgroup._find(("memory",), 1, "/", [MOUNT.format(root="/").split()])


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({}, True),
        ({"memory.max": "max\n", "cpu.max": "max 100000\n", "cpuset.cpus": "\n"}, True),
        ({"memory.max": "1000000\n"}, False),
        ({"cpu.max": "50000 100000\n"}, False),
        ({"cpuset.cpus": "0-3\n"}, False),
    ],
)
def test_a_group_that_somebody_limited_is_not_left(tmp_path, files, left):
    """Version 2 makes groups beside our own rather than in it: not where that is a way out."""
    inner = tmp_path / "service"
    inner.mkdir()
    for name, text in files.items():
        (inner / name).write_text(text)
    own = cgroup.Hierarchy(cgroup.CONTROLLERS, 2, str(tmp_path), str(inner))
    with pytest.raises(OSError, match="can be made") as caught:
        cgroup._make(own, "palestra-1-x", {"memory": 1 << 30, "pids": 100})
    assert (f"{tmp_path}: " in str(caught.value)) is left
    assert ("not to be left" in str(caught.value)) is not left
