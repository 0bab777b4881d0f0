"""Sessions in containers, against a real daemon: what they do, and what they are kept from."""

import asyncio
import errno
import pickle

import pytest
from daemon import QUICK, SMALL, connected

from palestra.sandbox import Limits, LocalSandbox, ProgramFault, SandboxError, Status
from palestra.sandbox.docker import DockerSandbox

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def client():
    yield from connected()


@pytest.fixture(scope="module")
def sandbox(client):
    with DockerSandbox(limits=QUICK, containers=1) as made:
        yield made


@pytest.fixture
def session(sandbox):
    with sandbox.open(seed=3) as made:
        yield made


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
    with pytest.raises(ProgramFault, match="directory"):
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
    strict = DockerSandbox(**SMALL, containers=1, namespaces=False, require=("cgroup", "fork"))
    with strict, pytest.raises(SandboxError, match=r"required layers are missing here \(fork"):
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


def test_a_copy_by_pickle_is_its_configuration(sandbox):
    copy = pickle.loads(pickle.dumps(sandbox))
    assert copy.config == sandbox.config
    assert copy.stats().opened == 0
    copy.close()


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
