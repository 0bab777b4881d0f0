"""Sessions in containers, against a real daemon: what they do, and what is left when things die."""

import asyncio
import errno
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from palestra.sandbox import Limits, LocalSandbox, SandboxError, Status
from palestra.sandbox.docker import DockerSandbox, image
from palestra.sandbox.docker.container import OWNER, _owner, connect, sweep

pytestmark = [pytest.mark.docker]
QUICK = Limits(wall_s=5.0, cpu_s=5.0)
SMALL = {"preload": ("math",), "limits": QUICK}  # starts soon


@pytest.fixture(scope="module")
def client():
    """The daemon; tests are skipped where there is none, or no image for it."""
    try:
        made = connect()
        image.ensure(made, image.DEFAULT)
    except SandboxError as error:
        pytest.skip(str(error))
    yield made
    made.close()


@pytest.fixture(scope="module")
def sandbox(client):
    with DockerSandbox(limits=QUICK, containers=1) as made:
        yield made


@pytest.fixture
def session(sandbox):
    with sandbox.open(seed=3) as made:
        yield made


def open_descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


def ours(client):
    """Containers that this process made."""
    return [one["Id"] for one in owned(client, _owner())]


def owned(client, owner):
    return client.api.containers(all=True, filters={"label": f"{OWNER}={owner}"})


def eventually(true, within=20.0):
    end = time.monotonic() + within
    while not (result := true()) and time.monotonic() < end:
        time.sleep(0.02)
    return result


def test_the_walls_inside_are_those_of_the_strongest_tier(sandbox):
    """Fails, too, when the server inside has come to need a call that the profile refuses."""
    with LocalSandbox(("math",)) as local:
        if local.missing:
            pytest.skip(f"not even outside of containers: {local.missing}")
    assert sandbox.missing == {}
    assert sandbox.tier == "docker"


def test_a_session_keeps_names_reads_stdin_and_echoes(session):
    first = session.run("import numpy, sympy\nx = input(); print(len(x))", stdin="a\u00e4b")
    assert (first.stdout, first.value, first.status, first.stderr) == ("3\n", None, Status.OK, "")
    again = session.run("x + str(sympy.factorint(12)), float(numpy.ones(3).sum())")
    assert again.value == "('a\u00e4b{2: 2, 3: 1}', 3.0)"
    assert 0 < again.duration_s < 5
    assert again.queue_s >= 0


def test_the_seed_decides(sandbox):
    def draw(seed):
        code = "import random, numpy; (random.random(), numpy.random.rand())"
        return sandbox.run(code, seed=seed).value

    assert draw(7) == draw(7) != draw(8)


def test_verdicts_are_those_of_the_server(session):
    failed = session.run("1 / 0")
    assert failed.status is Status.ERROR
    assert failed.stderr.endswith("ZeroDivisionError: division by zero\n")
    late = session.run("x = 1\nprint('so far')\nwhile True: pass", wall_s=0.2)
    assert (late.status, late.stdout) == (Status.TIMEOUT, "so far\n")
    fresh = session.run("x")
    assert "a fresh interpreter" in fresh.stderr
    assert "NameError" in fresh.stderr
    assert session.run("import os; os._exit(3)").status is Status.CRASHED
    assert session.run("while True: print('y' * 1000)").status is Status.OUTPUT
    assert session.run("bytearray(1 << 40)").status is Status.MEMORY
    assert session.run("print(6 * 7)").stdout.endswith("42\n")


def test_long_output_is_cut_and_long_sources_and_values_come_through(sandbox):
    with sandbox.open(Limits(output_bytes=1000)) as session:
        cut = session.run("print('BEGIN' + 'x' * 50_000 + 'END')")
    assert cut.truncated
    assert cut.stdout.startswith("BEGIN")
    assert cut.stdout.endswith("END\n")
    with sandbox.open(Limits(output_bytes=1 << 20)) as session:
        assert session.run("'" + "\U0001f642" * 200_000 + "'").value.count("\U0001f642") == 200_000
        assert session.run("print('\\x01' * 500_000); chr(0xd800)").value == "'\\ud800'"
        assert session.run(f"len({'y' * 2_000_000!r})").value == "2000000"


def test_files_go_in_and_out(session):
    data = bytes(range(256)) * 40_000
    session.write_file("in/data.bin", data)
    session.run("open('out.bin', 'wb').write(open('in/data.bin', 'rb').read()[::-1])")
    assert session.read_file("out.bin") == data[::-1]
    session.run("open(b'\\xff', 'w').close()")
    assert session.list_files() == ["in/data.bin", "out.bin", "\udcff"]
    with pytest.raises(FileNotFoundError):
        session.read_file("nothing")
    with pytest.raises(ValueError, match="at most 100 are read"):
        session.read_file("out.bin", max_bytes=100)
    for path in ("../out.bin", "/etc/passwd", ""):
        with pytest.raises(ValueError, match="plain relative path"):
            session.read_file(path)
    with pytest.raises(OSError, match="a file may have") as caught:
        session.write_file("large", bytes(QUICK.file_bytes + 1))
    assert caught.value.errno == errno.EFBIG
    session.run("import os; os.mkdir('folder')")
    with pytest.raises(OSError, match="folder"):
        session.write_file("folder", b"")


def test_a_fork_is_a_copy_with_its_files(sandbox):
    with sandbox.open() as session:
        session.run("g = iter(range(9)); next(g); open('f', 'w').write('one')")
        session.run("import os; r, w = os.pipe(); os.write(w, b'held')")
        with session.fork() as copy, copy.fork() as second:
            assert copy.run("open('f', 'w').write('copy'); next(g)").value == "1"
            assert second.run("next(g), open('f').read()").value == "(1, 'one')"
            assert session.run("next(g), open('f').read()").value == "(1, 'one')"
            for one in (session, copy, second):
                assert one.run("os.read(r, 9)").value == "b'held'"


def test_a_call_that_is_killed_is_undone_on_request(sandbox):
    with sandbox.open(rollback=True) as session:
        session.run("x = [1]")
        assert session.run("x.append(2)\nwhile True: pass", wall_s=0.3).status is Status.TIMEOUT
        assert session.run("x").value == "[1]"


def test_the_quota_is_the_sessions_own(sandbox):
    fill = "open('f', 'wb').write(bytes(3 << 20))"
    with sandbox.open(Limits(tmp_bytes=2 << 20)) as small, sandbox.open() as large:
        assert "No space left" in small.run(fill).stderr
        assert large.run(fill).ok


def test_many_at_once_from_one_loop(sandbox):
    async def one(number):
        return (await sandbox.arun(f"print({number})")).stdout

    async def everyone():
        return await asyncio.gather(*(one(number) for number in range(40)))

    assert asyncio.run(everyone()) == [f"{number}\n" for number in range(40)]


def test_a_cancelled_call_ends_and_the_session_goes_on(sandbox):
    async def main():
        async with await sandbox.aopen() as session:
            call = asyncio.create_task(session.arun("x = 1\nwhile True: pass"))
            await asyncio.sleep(0.2)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            return await session.arun("'x' in globals()")

    before = sandbox.stats().kills.get("interrupted", 0)
    result = asyncio.run(main())
    assert result.value == "False"
    assert "interrupted" in result.stderr
    assert sandbox.stats().kills["interrupted"] == before + 1


def test_closing_ends_a_call_and_the_session(sandbox):
    async def main():
        session = await sandbox.aopen()
        call = asyncio.create_task(session.arun("while True: pass"))
        await asyncio.sleep(0.1)
        session.close()
        session.close()
        with pytest.raises(SandboxError, match=r"closed|cancelled"):
            await call
        with pytest.raises(SandboxError, match="closed"):
            await session.arun("1")
        with pytest.raises(SandboxError, match="closed"):
            await session.afork()

    asyncio.run(main())


def test_one_call_at_a_time(sandbox):
    async def main():
        async with await sandbox.aopen() as session:
            call = asyncio.create_task(session.arun("import time; time.sleep(0.3)"))
            await asyncio.sleep(0.1)
            with pytest.raises(RuntimeError, match="another call"):
                await session.arun("1")
            assert (await call).ok

    asyncio.run(main())


def test_statistics(client):
    with DockerSandbox(**SMALL, containers=1) as sandbox:
        with sandbox.open() as session:
            session.run("1")
            session.run("while True: pass", wall_s=0.1)
        stats = sandbox.stats()
    assert (stats.opened, stats.open, stats.calls, stats.lost) == (1, 0, 2, 0)
    assert stats.by_status == {Status.OK: 1, Status.TIMEOUT: 1}
    assert stats.kills == {"wall": 1}


def test_containers_are_locked_up(client, sandbox):
    sandbox.run("1")
    (number,) = sandbox.container_ids
    container = client.containers.get(number)
    options = container.attrs["HostConfig"]
    assert not container.attrs["Mounts"]
    assert not options["Binds"]
    assert options["Memory"] == options["MemorySwap"] == sandbox.config.memory_bytes
    assert options["PidsLimit"] == sandbox.config.pids

    def inside(code):
        done = container.exec_run(["python3", "-c", code], user="65534:65534")
        return done.output.decode()

    state = inside("print(open('/proc/self/status').read())").split()
    for name, value in (("CapEff:", "0" * 16), ("CapBnd:", "0" * 16), ("NoNewPrivs:", "1")):
        assert state[state.index(name) + 1] == value
    assert state[state.index("Seccomp:") + 1] == "2"
    assert inside("import os; print(os.listdir('/sys/class/net'))").strip() == "['lo']"
    assert "Read-only file system" in inside("open('/usr/x', 'w')")
    assert "Operation not permitted" in inside("import socket; socket.socket()")
    # The gateway's memory and descriptors are closed to all others of its user.
    gateways = (
        "import os\nfor p in filter(str.isdecimal, os.listdir('/proc')):\n"
        "    words = open(f'/proc/{p}/cmdline').read()\n"
        "    if 'docker.gateway' in words and 'docker-init' not in words: print(p)"
    )
    (gateway,) = inside(gateways).split()
    assert "Permission denied" in inside(f"open('/proc/{gateway}/mem', 'r+b')")
    assert "Permission denied" in inside(f"import os; os.listdir('/proc/{gateway}/fd')")


def test_without_namespaces_code_runs_and_fork_says_why(client):
    with DockerSandbox(**SMALL, containers=1, namespaces=False) as sandbox:
        assert sandbox.tier == "docker"
        assert "fork" in sandbox.missing
        assert "seccomp" not in sandbox.missing
        with sandbox.open() as session:
            assert session.run("print(6 * 7)").stdout == "42\n"
            assert "PermissionError" in session.run("open('/etc/passwd')").stderr
            with pytest.raises(SandboxError, match=r"no fork in its container: .*unshare"):
                session.fork()
            assert session.run("1").value == "1"
        with pytest.raises(SandboxError, match="fork"):
            sandbox.open(rollback=True)
    strict = DockerSandbox(**SMALL, containers=1, namespaces=False, require=("fork",))
    with strict, pytest.raises(SandboxError, match="required layers are missing"):
        strict.open()


def test_a_full_container_kills_the_program_and_says_memory(client):
    eat = "x = []\nwhile True: x.append(b'y' * (1 << 20))"
    with DockerSandbox(**SMALL, containers=1, memory_bytes=256 << 20) as sandbox:
        with sandbox.open() as witness, sandbox.open() as session:
            witness.run("x = 1")
            result = session.run(eat)
            assert result.status is Status.MEMORY, result
            assert "the container was out of memory" in result.stderr
            assert session.run("1").value == "1"
            assert witness.run("x").value == "1"
        assert sandbox.stats().kills == {"memory": 1}


def test_a_container_killed_in_mid_call_is_replaced(client):
    with DockerSandbox(**SMALL, containers=2) as sandbox:
        with sandbox.open() as session:
            assert eventually(lambda: len(sandbox.container_ids) == 2)
            before = sandbox.container_ids
            session.run("x = 1")
            # The first session went to the first that answered.
            (loaded,) = [c.id for c in sandbox._containers if c.sessions]
            killer = asyncio.to_thread(client.api.kill, loaded)

            async def main():
                call = asyncio.create_task(session.arun("while True: pass", wall_s=60))
                await asyncio.sleep(0.2)
                await killer
                with pytest.raises(SandboxError, match="container was lost"):
                    await call

            asyncio.run(main())
            with sandbox.open() as other:
                assert other.run("1").value == "1"
            with pytest.raises(SandboxError, match="lost"):
                session.run("x")
            assert sandbox.stats().lost == 1
        assert eventually(lambda: len(sandbox.container_ids) == 2)
        after = sandbox.container_ids
        assert set(before) & set(after) == set(before) - {loaded}
    assert not {*before, *after} & {*ours(client)}


@pytest.mark.skipif(os.geteuid() != 0, reason="the gateway's user is another")
def test_a_killed_gateway_ends_its_container_only(client):
    with DockerSandbox(**SMALL, containers=1) as sandbox:
        session = sandbox.open()
        (number,) = sandbox.container_ids
        top = client.api.top(number)
        column = top["Titles"].index("PID")
        gateways = [row for row in top["Processes"] if "docker.gateway" in row[-1]]
        os.kill(min(int(row[column]) for row in gateways if "docker-init" not in row[-1]), 9)
        with pytest.raises(SandboxError, match="lost"):
            session.run("1")
        assert eventually(lambda: number not in ours(client))
        with sandbox.open() as other:
            assert other.run("1").value == "1"


def test_a_container_that_does_not_answer_is_killed(client):
    with DockerSandbox(**SMALL, containers=1, patience_s=0.5) as sandbox:
        session = sandbox.open()
        (number,) = sandbox.container_ids
        client.api.pause(number)
        start = time.monotonic()
        with pytest.raises(SandboxError, match="did not answer 'run' within"):
            session.run("1", wall_s=0.2)
        assert time.monotonic() - start >= 0.7
        assert eventually(lambda: number not in ours(client))
        with sandbox.open() as other:
            assert other.run("1").value == "1"


def test_close_leaves_nothing(client):
    before = open_descriptors()
    sandbox = DockerSandbox(**SMALL, containers=1)
    sessions = [sandbox.open() for _ in range(3)]
    (number,) = sandbox.container_ids
    assert number in ours(client)
    sandbox.close()
    sandbox.close()
    assert number not in ours(client)
    with pytest.raises(SandboxError):
        sessions[0].run("1")
    with pytest.raises(SandboxError, match="closed"):
        sandbox.open()
    del sandbox, sessions
    assert eventually(lambda: open_descriptors() <= before)


HOST = """
import os, sys
from palestra.sandbox.docker import DockerSandbox
from palestra.sandbox.docker.container import _owner
sandbox = DockerSandbox(preload=("math",), containers=1)
session = sandbox.open()
child = os.fork()
if child == 0:
    os.close(1)
    import time; time.sleep(60)  # a forked process that lives on keeps no container
print(_owner(), child, flush=True)
if sys.argv[1] == "wait":
    session.run("while True: pass", wall_s=60)
"""


@pytest.mark.parametrize("how", ["wait", "exit"])
def test_nothing_outlives_its_host(client, how):
    words = [sys.executable, "-c", HOST, how]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as host:
        owner, child = host.stdout.readline().split()
        try:
            if how == "wait":
                assert len(owned(client, owner)) == 1
                host.kill()
            host.wait(30)
            assert eventually(lambda: not owned(client, owner))
        finally:
            os.kill(int(child), signal.SIGKILL)


def test_what_the_dead_left_is_swept_and_nothing_else(client):
    machine = _owner().rpartition("/")[0]
    owners = (f"{machine}/4194304.1", "another-machine/1/4194304.1", _owner())
    made = [
        client.api.create_container(image.DEFAULT, labels={OWNER: owner})["Id"] for owner in owners
    ]
    try:
        assert made[0] in sweep(client)
        left = [one["Id"] for owner in owners for one in owned(client, owner)]
        assert made[0] not in left
        assert {made[1], made[2]} <= set(left)
    finally:
        for number in made[1:]:
            client.api.remove_container(number, force=True)


def test_a_forked_host_gets_containers_of_its_own(client):
    with DockerSandbox(**SMALL, containers=1) as sandbox:
        session = sandbox.open()
        session.run("x = 1")
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                with pytest.raises(SandboxError, match="forked"):
                    session.run("x")
                session.close()
                with sandbox.open() as own:
                    os.write(write, own.run("2").value.encode())
                sandbox.close()
            finally:
                os._exit(0)
        os.close(write)
        assert os.read(read, 10) == b"2"
        os.close(read)
        os.waitpid(child, 0)
        assert session.run("x").value == "1"


def test_a_copy_by_pickle_is_its_configuration(sandbox):
    copy = pickle.loads(pickle.dumps(sandbox))
    assert copy.config == sandbox.config
    assert copy.stats().opened == 0
    copy.close()


def test_any_image_with_python_will_do(client):
    base = client.images.get(image.DEFAULT).tags[0]
    made = image.build(client, base, "palestra-sandbox:test")
    try:
        assert client.images.get(made).labels[image.LABEL] == image.digest(image.sources())
        assert image.ensure(client, "palestra-sandbox:test") == made
    finally:
        client.images.remove("palestra-sandbox:test")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"image": "no-such-image"}, "no image 'no-such-image'.*docker build --base"),
        ({"runtime": "no-such-runtime"}, "no-such-runtime|[Uu]nknown runtime"),
    ],
)
def test_what_cannot_start_says_why(client, options, why):
    before = ours(client)
    with DockerSandbox(**options) as sandbox:
        for _ in range(2):
            with pytest.raises(SandboxError, match=why):
                sandbox.open()
    assert ours(client) == before


def test_without_a_daemon_the_error_says_what_to_do(monkeypatch):
    pytest.importorskip("docker")
    monkeypatch.setenv("DOCKER_HOST", "unix:///no/such/socket")
    with DockerSandbox() as sandbox:
        with pytest.raises(SandboxError, match=r"no Docker daemon answers .*DOCKER_HOST"):
            sandbox.open()
        with pytest.raises(SandboxError, match="no Docker daemon"):
            _ = sandbox.tier


def test_without_the_sdk_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "docker", None)
    with DockerSandbox() as sandbox, pytest.raises(SandboxError, match=r"palestra\[docker\]"):
        sandbox.open()


def test_options_are_checked():
    for name in ("containers", "memory_bytes", "cpus", "pids", "patience_s"):
        with pytest.raises(ValueError, match=f"{name} must be positive"):
            DockerSandbox(**{name: 0})
    with pytest.raises(ValueError, match="unknown layer 'disk'"):
        DockerSandbox(require=("disk",))


@pytest.mark.slow
def test_gvisor(client):
    if "runsc" not in client.info()["Runtimes"]:
        pytest.skip("the daemon has no runtime 'runsc'")
    with DockerSandbox(limits=QUICK, containers=1, runtime="runsc") as sandbox:
        assert sandbox.tier == "docker+runsc"
        assert "fork" in sandbox.missing
        with sandbox.open() as session:
            assert session.run("import numpy\nprint(numpy.ones(3).sum())").stdout == "3.0\n"
            assert session.run("while True: pass", wall_s=0.5).status is Status.TIMEOUT
            assert "a fresh interpreter" in session.run("1").stderr
            with pytest.raises(SandboxError, match="no fork in its container"):
                session.fork()
