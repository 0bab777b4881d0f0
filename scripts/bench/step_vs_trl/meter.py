"""What one step costs, measured from inside the process that runs it; and its line to the parent.

A side answers each line `go` on stdin with one JSON line on what was stdout; whatever its
libraries print goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

TICKS = os.sysconf("SC_CLK_TCK")


class Meter:
    """Wall and CPU time between `start` and `stop`, and the peak of resident memory so far."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._base_mb = 0.0
        self.result: dict[str, Any] = {}

    def wait(self) -> bool:
        """Block until the parent wants a step; False when it wants no more."""
        return sys.stdin.readline().strip() == "go"

    def answer(self, **more: Any) -> None:
        print(json.dumps(self.result | more), file=self._answers, flush=True)

    def start(self) -> None:
        if not self._base_mb:  # model and libraries loaded, nothing run yet
            Path("/proc/self/clear_refs").write_text("5")  # VmHWM := VmRSS
            self._base_mb = _memory_mb("VmRSS")
        self._cpu, self._own, self._wall = tree_cpu_s(), time.process_time(), time.perf_counter()

    def stop(self) -> None:
        peak = _memory_mb("VmHWM")
        self.result = {
            "wall_s": time.perf_counter() - self._wall,
            "cpu_s": tree_cpu_s() - self._cpu,
            "own_cpu_s": time.process_time() - self._own,
            "peak_mb": peak,
            "added_mb": peak - self._base_mb,
        }


def _memory_mb(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no {field} in /proc/self/status: this benchmark needs Linux")


def tree_cpu_s() -> float:
    """CPU seconds of this process and everything below it, the sandbox and its dead included."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = entry.read_text()
        except OSError:
            continue  # it ended meanwhile: its parent's cutime has it
        pid, fields = int(entry.parent.name), text.rpartition(")")[2].split()
        parents[pid] = int(fields[1])
        ticks[pid] = sum(int(x) for x in fields[11:15])
    family, frontier = {os.getpid()}, {os.getpid()}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier} - family
        family |= frontier
    return sum(ticks.get(pid, 0) for pid in family) / TICKS
