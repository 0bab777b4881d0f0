"""Live a mixed life with a sandbox, end it in some way, and say what is left.

    python leftovers.py watch ENDING TIER   what was there after and not before, as JSON

To be run by `asuser`, so that the processes, mounts, temporary files and queues that can be seen
are ours alone. `python leftovers.py live ENDING TIER` is the life itself: the host process.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import play
from attacks import ATTACKS, SCENES

from palestra.sandbox import Sandbox, SandboxError, Session

SETTLE_S = 15.0
FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")
TABLES = ("/proc/self/mountinfo", "/proc/keys", "/proc/net/unix", "/proc/net/dev")
QUEUES = tuple(f"/proc/sysvipc/{kind}" for kind in ("msg", "sem", "shm"))


def census() -> dict[str, list[str]]:
    """What could be left."""
    processes = {p.name: (p / "comm") for p in Path("/proc").iterdir() if p.name.isdigit()}
    found = {"processes": [f"{pid} {_text(comm)}" for pid, comm in processes.items()]}
    for table in TABLES:
        found[table] = sorted({_name(table, line) for line in _text(Path(table)).splitlines()})
    for queue in QUEUES:
        found[queue] = _text(Path(queue)).splitlines()[1:]
    for folder in FOLDERS:
        paths = (str(path) for path in Path(folder).rglob("*"))
        found[folder] = [path for path in paths if "palestra-test-" not in path]  # the witness'
    return found


def groups(host: int) -> list[str]:
    """Control groups of one host. There is one tree of them, so that others' are in sight: those
    with processes, as our own are counted."""
    found = [Path(folder) for folder, _, _ in os.walk("/sys/fs/cgroup")]
    own = [folder for folder in found if folder.name.startswith(f"palestra-{host}-")]
    return [str(folder) for folder in own if not _text(folder / "cgroup.procs")]


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _name(table: str, line: str) -> str:
    """What tells the lines of a table apart; counters in them change."""
    words = line.split()
    pick = {"/proc/keys": slice(0, 1), "/proc/net/dev": slice(0, 1), "/proc/net/unix": slice(7, 8)}
    return " ".join(words[pick.get(table, slice(2, None))])


def watch(ending: str, tier: str) -> dict[str, list[str]]:
    """Run the life, and compare before and after, once processes had time to die."""
    before = census()
    words = [sys.executable, __file__, "live", ending, tier]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as host:
        assert host.stdout is not None
        said = [host.stdout.readline().strip()]  # "busy": everything is open and running
        if ending == "killed":
            time.sleep(0.3)
            host.kill()
        elif ending == "interrupted":
            host.send_signal(signal.SIGINT)
        said += host.stdout.read().split("\n")
        said.append(f"exit code {host.wait()}")
    until = time.monotonic() + SETTLE_S
    while True:
        after = census()
        left = {k: [v for v in after[k] if v not in before[k]] for k in after}
        left["control groups"] = groups(host.pid)
        left = {k: v for k, v in left.items() if v}
        if not left or time.monotonic() > until:
            return {"said": [line for line in said if line]} | left
        time.sleep(0.05)


def descriptors() -> list[str]:
    """What this process has open, by number."""
    found = []
    for path in Path("/proc/self/fd").iterdir():
        try:
            found.append(f"{path.name} {path.readlink()}")
        except FileNotFoundError:  # the folder that was listed
            continue
    return found


async def mixed(sandbox: Sandbox, witness: play.Witness, kept: list[Session], step: int) -> None:
    """Attacks and scenes, copies of copies, calls killed and undone; much is left open."""
    missing = set(sandbox.missing)
    scenes = [s for s in SCENES[::step] if not (s.slow or missing & set(s.walls))]
    async for _, outcome in play.play(sandbox, [*ATTACKS[::step], *scenes], witness):
        assert "lost" not in outcome.lost, outcome
    session = await sandbox.aopen()
    kept.append(session)
    await session.arun("x = [0]; open('file', 'w').write('x')")
    for level in range(4 if "fork" not in missing else 0):
        kept += [await session.afork() for _ in range(2)]
        session = kept[-1]
        await session.arun(f"x.append({level})")
    for code in ("while True: pass", "import os; os._exit(1)", "print('x' * (1 << 22))"):
        kept.append(await sandbox.aopen(rollback="fork" not in missing))
        await kept[-1].arun(code, wall_s=0.2)


async def busy(kept: list[Session]) -> None:
    """Calls under way in every session, when the end comes."""
    codes = ("while True: pass", "import time; time.sleep(99)", "import os\nwhile True: os.dup(0)")
    calls = [s.arun(codes[n % 3], wall_s=30.0) for n, s in enumerate(kept)]
    print("busy", flush=True)
    await asyncio.gather(*calls, return_exceptions=True)


def live(ending: str, tier: str) -> None:
    """The host: a life that ends as asked, and what it has open afterwards."""
    first = descriptors()
    witness, sandbox, kept = play.Witness(), play.back_end(tier), []
    asyncio.run(mixed(sandbox, witness, kept, 6 if ending == "closed" else 40))
    if ending in ("killed", "interrupted"):
        asyncio.run(busy(kept))
    print("busy", flush=True)
    if ending == "server":
        os.kill(sandbox.server_pid, signal.SIGKILL)
        try:
            while True:  # until the kernel has carried it out
                kept[0].run("1")
        except SandboxError:
            print("lost")
    if ending == "exit":
        sys.exit(0)
    if ending != "forgotten":
        for session in kept[::2]:
            session.close()
        sandbox.close()
    witness.close()
    kept.clear()
    del sandbox
    gc.collect()
    print(*(f"open: {line}" for line in descriptors() if line not in first), sep="\n")


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    if sys.argv[1] == "watch":
        print(json.dumps(watch(*sys.argv[2:])))
    else:
        live(*sys.argv[2:])
