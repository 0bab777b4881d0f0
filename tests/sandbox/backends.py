"""The back ends that the attacks are played on, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from asuser import NO_NAMESPACES
from attacks import Outcome

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
SOMEBODY = 47_110  # a user id that nobody has
WITHIN_S = 500.0  # a back end plays its list in some 20 s of CPU time

slow = pytest.mark.slow
BACKENDS = [
    pytest.param("local", id="local"),
    pytest.param("local-user", id="local-user"),
    pytest.param("landlock-user", id="landlock-user"),
    pytest.param("landlock", id="landlock", marks=slow),
    pytest.param("local-process", id="local-process", marks=slow),
    pytest.param("local-copy", id="local-copy", marks=slow),
    pytest.param("local-rollback", id="local-rollback", marks=slow),
    pytest.param("docker", id="docker", marks=[slow, pytest.mark.docker]),
    pytest.param("docker-runsc", id="docker-runsc", marks=[slow, pytest.mark.docker]),
]

# What a program may do there that is refused elsewhere. Its effects are watched all the same.
_OWN_PROCESSES = """
01-fork-by-number 01-vfork-by-number 04-shared-memory-object 16-signal-the-parent
16-signal-the-group 16-tgkill-of-pid-1 16-tgkill-of-neighbours 17-stop-the-parent
18-kill-the-parent 27-daemon 28-multiprocessing 63-interval-timer 63-alarm 63-timer-left-behind
63-alarm-left-behind 76-die-like-out-of-memory 76-die-by-a-real-time-signal 76-die-by-the-filter
83-wait-for-children 83-own-session 83-own-group
"""  # it is process 1 of its namespace, which signals of its own making do not end
_NO_COUNT_OF_FILES = "05-inode-fill 05-inode-fill-by-folders 05-folders-in-folders"
GRANTED = {
    "local-process": set(_OWN_PROCESSES.split()),
    # Its tmpfs counts no files, and it takes the request for huge pages as a hint.
    "docker-runsc": {*_NO_COUNT_OF_FILES.split(), "72-huge-pages"},
}


@dataclass
class Played:
    """What a back end said of itself, and the outcome of each attack by its id."""

    name: str
    tier: str = ""
    missing: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    end: str = ""


def command(name: str, *, isolated: bool) -> list[str]:
    """How `play` is started for a back end."""
    plain = [sys.executable, str(HERE / "play.py"), name]
    if not isolated or name.startswith("docker"):
        return plain
    user = SOMEBODY if name.endswith("-user") and os.geteuid() == 0 else os.geteuid()
    shown = {sys.prefix, sys.base_prefix, str(REPOSITORY), *filter(os.path.isdir, sys.path)}
    options = [word for path in sorted(shown) for word in ("--show", path)]
    # A disk in memory, where nothing that is needed lies on it: filling the real one is slow.
    fresh = [] if any(path.startswith("/tmp/") for path in shown) else ["--fresh", "/tmp"]
    asuser = [sys.executable, str(HERE / "asuser.py"), "--user", str(user)]
    return [*asuser, *(options if user != os.geteuid() else []), *fresh, "--", *plain]


def play(name: str, ids: Iterable[str]) -> Played:
    """Play attacks on a back end; skips where it cannot be had here."""
    if name.endswith("-user") and os.geteuid() != 0:
        pytest.skip("this already is an ordinary user: see the back end without '-user'")
    text = json.dumps(sorted(ids))
    done = _run(command(name, isolated=True), text)
    if done.returncode == NO_NAMESPACES:
        if name.endswith("-user"):
            pytest.skip(f"cannot become another user here: {done.stderr.strip()}")
        done = _run(command(name, isolated=False), text)
    return _read(name, done)


def _run(words: list[str], text: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH", "")]))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        words,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        cwd="/",
        start_new_session=True,
    ) as process:
        try:
            out, err = process.communicate(text, timeout=WITHIN_S)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            err += f"\nit hung: killed after {WITHIN_S:g} s"
        return subprocess.CompletedProcess(words, process.returncode, out, err)


def _read(name: str, done: subprocess.CompletedProcess[str]) -> Played:
    played = Played(name, end=f"exit code {done.returncode}; {done.stderr[-3000:]}")
    for line in done.stdout.splitlines():
        entry: dict[str, Any] = json.loads(line)
        if "tier" in entry:
            played.tier, played.missing = entry["tier"], entry["missing"]
        else:
            attack = entry.pop("id")
            played.outcomes[attack] = Outcome(**entry)
    return played
