"""One container: made, talked to, removed. And what others left behind, swept away."""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from ..types import SandboxError
from . import image
from .config import DockerConfig
from .hardening import USER, host_config
from .stream import Link

OWNER = "palestra.sandbox.owner"
GONE_S = 20.0  # for the daemon to remove a container that was killed


class Container:
    """A container with a warm server inside, and the thread that speaks with it.

    It starts at once, in the background, and is `ready` once it answers. `ended` is called
    in its thread after it is gone. When `link.lost`, it is of no use any more.
    """

    def __init__(self, config: DockerConfig, ended: Callable[[Container], None]) -> None:
        self.owner = os.getpid()
        self.id = ""
        self.sessions = 0
        self.used = False
        self.link = Link()
        self._config = config
        self._ended = ended
        self._thread = threading.Thread(target=self._live, name="palestra-docker", daemon=True)
        self._thread.start()

    @property
    def here(self) -> bool:
        """Whether this process made it; one that was forked from that has no say."""
        return self.owner == os.getpid()

    @property
    def ready(self) -> bool:
        """Whether it answers."""
        return self.link.greeting.answer is not None and not self.link.lost

    @property
    def missing(self) -> dict[str, str]:
        """Layers that its sessions do not have, with the reason; known once it is ready."""
        greeting = self.link.greeting.answer
        said = greeting.fields.get("missing") if greeting is not None else None
        return {str(k): str(v) for k, v in said.items()} if isinstance(said, dict) else {}

    def end(self, why: str) -> None:
        """Kill and remove it; returns once it is gone."""
        self.link.fail(why)
        if threading.current_thread() is not self._thread:
            self._thread.join(2 * GONE_S)

    def _live(self) -> None:
        try:
            client = connect()
        except SandboxError as error:
            self.link.fail(str(error))
            return
        try:
            stream = self._start(client)
            self.link.serve()
            stream.close()
        except Exception as error:  # noqa: BLE001 - raised in whoever opens a session
            why = error if isinstance(error, SandboxError) else f"{type(error).__name__}: {error}"
            self.link.fail(f"it could not be started: {why}")
        finally:
            _remove(client, self.id)
            client.close()
            self._ended(self)

    def _start(self, client: Any) -> Any:
        """Make it, attach to it, start it. The stream, which closes with what it belongs to."""
        sweep(client)
        info = client.info()
        made = client.api.create_container(
            image.ensure(client, self._config.image),
            [json.dumps(_for_gateway(self._config))],
            name=f"palestra-{secrets.token_hex(6)}",
            user=USER,
            stdin_open=True,
            labels={OWNER: _owner()},
            host_config=host_config(client.api, self._config, info["SecurityOptions"]),
        )
        self.id = made["Id"]
        streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
        stream = client.api.attach_socket(self.id, streams)
        if type(getattr(stream, "_sock", None)) is not socket.socket:
            raise SandboxError("DOCKER_HOST must be a unix:// socket or plain tcp://")
        self.link.attach(stream._sock)
        client.api.start(self.id)
        return stream


def _for_gateway(config: DockerConfig) -> dict[str, Any]:
    """What the server inside has to know."""
    # It can make no control group, and needs none: the container is one.
    require = [layer for layer in config.require if layer != "cgroup"]
    return {"preload": config.preload, "require": require, "ready": config.ready}


def connect() -> Any:
    """A client of the Docker daemon that the environment names (DOCKER_HOST).

    Raises:
        SandboxError: no SDK, no daemon.
    """
    try:
        import docker
        import docker.errors
    except ImportError as error:
        raise SandboxError(
            "the docker package is missing: pip install 'palestra[docker]'"
        ) from error
    try:
        return docker.from_env(timeout=60)
    except docker.errors.DockerException as error:
        raise SandboxError(
            f"no Docker daemon answers ({error}): start one (`systemctl start docker`), join the "
            "group that may use it (`docker`), or set DOCKER_HOST"
        ) from error


def _remove(client: Any, number: str) -> None:
    """Kill and remove a container by its id, and wait until it is gone."""
    import docker.errors

    if not number:
        return
    # Most often the daemon is at it already, as containers remove themselves at their end.
    with suppress(docker.errors.APIError, OSError):
        client.api.remove_container(number, force=True)
    with suppress(docker.errors.APIError, OSError):
        client.api.wait(number, timeout=GONE_S, condition="removed")


def sweep(client: Any) -> list[str]:
    """Remove the containers whose owner on this machine has died; their ids."""
    here, _, _ = _owner().rpartition("/")
    swept = []
    for one in client.api.containers(all=True, filters={"label": OWNER}):
        machine, _, life = one["Labels"].get(OWNER, "").rpartition("/")
        if machine == here and not _alive(life):
            _remove(client, one["Id"])
            swept.append(one["Id"])
    return swept


def _owner() -> str:
    """This process, in words that no other process ever has: machine/process namespace/life."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}/{_life(os.getpid())}"


def _life(pid: int) -> str:
    """A process id with the time it started, as ids are used again."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return f"{pid}.{fields[19]}"


def _alive(life: str) -> bool:
    pid = life.partition(".")[0]
    try:
        return pid.isdecimal() and _life(int(pid)) == life
    except OSError:
        return False
