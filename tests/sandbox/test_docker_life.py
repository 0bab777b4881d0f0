"""Containers from start to end: what is left when they, their gateway or their host die."""

import asyncio
import os
import signal
import subprocess
import sys
import time

import pytest
from daemon import SMALL, connected, eventually, open_descriptors, ours, owned

from palestra.sandbox import SandboxError
from palestra.sandbox.docker import DockerSandbox, image
from palestra.sandbox.docker.container import OWNER, _owner, sweep

pytestmark = pytest.mark.docker


@pytest.fixture(scope="module")
def client():
    yield from connected()


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
