"""A small member for pools, and patience with them."""

from __future__ import annotations

import time
from pathlib import Path

from palestra.sandbox import Limits, LocalSandbox, Pool

PATIENCE_S = 60.0  # far more than anything here takes; only a hang gets there


def small() -> LocalSandbox:
    return LocalSandbox(("math", "random"), limits=Limits(wall_s=20.0, cpu_s=20.0))


def wait_until(condition) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def idle(pool: Pool) -> bool:
    now = pool.stats()
    return not (now.running or now.queued or any(m.running or m.sessions for m in now.members))
