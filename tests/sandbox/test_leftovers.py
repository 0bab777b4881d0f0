"""Whatever is done in a sandbox and however its host ends: nothing of it is left.

Each life is lived where everything that can be seen is its own (see `asuser`), so that what was
not there before must have been left by it: processes, mounts, control groups, keys, sockets,
queues, temporary files, shared memory; and descriptors of a host that lives on.
"""

import json
import os
import subprocess
import sys

import backends
import pytest
from asuser import NO_NAMESPACES

# How a host ends, and its exit code.
ENDINGS = {"closed": 0, "forgotten": 0, "exit": 0, "killed": -9, "interrupted": -2, "server": 0}


def life(ending, tier, user):
    shown = {sys.prefix, sys.base_prefix, str(backends.REPOSITORY)}
    words = [sys.executable, str(backends.HERE / "asuser.py"), "--no-network"]
    words += ["--user", str(user)] if os.geteuid() == 0 else []
    words += [word for path in sorted(shown) for word in ("--show", path) if user != os.geteuid()]
    for folder in ("/var/tmp", "/dev/shm", "/tmp"):
        words += ["--fresh", folder]
    words += ["--", sys.executable, str(backends.HERE / "leftovers.py"), "watch", ending, tier]
    environment = {**os.environ, "PYTHONPATH": str(backends.REPOSITORY)}
    done = subprocess.run(
        words, env=environment, cwd="/", capture_output=True, text=True, timeout=280
    )
    if done.returncode == NO_NAMESPACES:
        pytest.skip(f"cannot tell our own things from others': {done.stderr}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("tier", ["local", "landlock"])
def test_nothing_is_left(tier, ending):
    user = backends.SOMEBODY if tier == "landlock" and os.geteuid() == 0 else os.geteuid()
    found = life(ending, tier, user)
    said = found.pop("said")
    assert found == {}
    assert said[0] == "busy"
    assert [line for line in said if line.startswith("open:")] == []
    assert f"exit code {ENDINGS[ending]}" in said
    if ending == "server":
        assert "lost" in said
