"""The Docker daemon of the tests."""

import time
from pathlib import Path

import pytest

from palestra.sandbox import Limits, SandboxError
from palestra.sandbox.docker import image
from palestra.sandbox.docker.container import OWNER, _owner, connect

QUICK = Limits(wall_s=5.0, cpu_s=5.0)
SMALL = {"preload": ("math",), "limits": QUICK}  # starts soon


def connected():
    """For a fixture: a client of the daemon, skipping where there is none or no image for it."""
    try:
        made = connect()
        image.ensure(made, image.DEFAULT)
    except SandboxError as error:
        pytest.skip(str(error))
    yield made
    made.close()


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
