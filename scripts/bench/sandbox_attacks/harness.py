"""Plays programs on one peer, each in a throw-away host: JSON lines in, JSON lines out.

    python harness.py PEER LIMIT_S IMAGE

The peer is imported once. For each job a child makes namespaces of its own (processes, network,
mounts, IPC), becomes an ordinary user there, sets up what the attack is after, and hands the
program to the peer. Whatever a program kills or fills is in there with it.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[3]
sys.path[:0] = [str(REPOSITORY / "tests" / "sandbox"), str(Path(__file__).parent)]

import asuser  # noqa: E402 - found through the line above
import peers  # noqa: E402
from hostile.witness import Witness  # noqa: E402

USER = 47_110
FRESH = ("/tmp", "/var/tmp", "/dev/shm")
CHECK_S = 10.0
STARTED = b" "  # before the JSON of an answer
START_S = 120.0  # until a system is up, which is no part of what is judged
PATIENCE_S = 30.0  # beyond its time limits, until a harness counts as hung
CHECK = "import random, numpy\nprint(int(numpy.arange(7).sum() * 4))"


def play(peer: peers.Peer, job: dict[str, str], limit_s: float, answer: int) -> dict[str, Any]:
    """One attack, from inside its host; a byte goes to `answer` once the system is up."""
    witness = Witness()  # not closed: it is thrown away with its host
    os.chdir(witness.folder.parent)
    secret = Path("/tmp/stdin")
    secret.write_text(f"{witness.token}\n")
    os.dup2(os.open(secret, os.O_RDONLY), 0)
    getattr(peer, "start", int)()
    os.write(answer, STARTED)
    start = time.monotonic()
    ran = peer(witness.fill(job["code"]), limit_s)
    seconds = ran.seconds or time.monotonic() - start
    then, later = (
        peer(witness.fill(job[name]), limit_s).stdout if job[name] else ""
        for name in ("then", "later")
    )
    harm = list(witness.harm(ran.stdout, ran.stderr, then))
    if len(ran.stdout) > 16 << 20:
        harm.append(f"{len(ran.stdout) >> 20} MB of output were taken")
    check = peer(CHECK, CHECK_S)
    if "84" not in check.stdout:
        harm.append(f"the next run fails: {check.ended} {check.stderr[-300:]}")
    getattr(peer, "close", int)()
    harm += _survivors()
    return {
        "ended": ran.ended, "stdout": ran.stdout[-4000:], "stderr": ran.stderr[-1000:],
        "then": then[-2000:], "later": later[-2000:], "harm": harm, "seconds": seconds,
    }  # fmt: skip


def _survivors() -> list[str]:
    """Processes that nobody waits for, once the dying had time to die."""
    own = {"1", str(os.getpid())}
    until = time.monotonic() + 1.0
    while True:
        left = [p for p in Path("/proc").iterdir() if p.name.isdigit() and p.name not in own]
        left = [p for p in left if _alive(p)]
        if not left or time.monotonic() > until:
            return [f"{len(left)} processes go on running"] if left else []
        time.sleep(0.02)


def _alive(process: Path) -> bool:
    try:
        return (process / "stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def child(peer: peers.Peer, job: dict[str, str], limit_s: float, answer: int, root: bool) -> None:
    """Make the host, play, and write the result to `answer`."""
    user = USER if os.geteuid() == 0 and not root else os.geteuid()
    shown = (sys.prefix, sys.base_prefix, str(REPOSITORY)) if user != os.geteuid() else ()
    asuser.isolate(user, shown=shown, fresh=FRESH, network=False)
    resource.setrlimit(resource.RLIMIT_NPROC, (400, 400))
    with os.fdopen(answer, "w") as file:
        file.write(json.dumps(play(peer, job, limit_s, answer)))


def watched(peer: peers.Peer, job: dict[str, str], limit_s: float, root: bool) -> dict[str, Any]:
    """Fork a child for a job; its result, or what became of it."""
    source, answer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setsid()
        os.close(source)
        try:
            child(peer, job, limit_s, answer, root)
            os._exit(0)  # no clean-up: it all goes with the host
        except BaseException as error:  # noqa: BLE001 - a peer that raises is a peer that died
            os.write(2, f"{type(error).__name__}: {error}\n".encode())
            os._exit(1)
    os.close(answer)
    parts = sum(bool(job[part]) for part in ("code", "then", "later"))
    patience = parts * limit_s + PATIENCE_S
    handle = os.pidfd_open(pid)
    select.select([source], [], [], START_S)
    until, data = time.monotonic() + patience, b""
    while select.select([source], [], [], max(0.0, until - time.monotonic()))[0]:
        piece = os.read(source, 1 << 16)
        if not piece:
            break
        data += piece
    hung = time.monotonic() >= until
    os.killpg(pid, signal.SIGKILL) if hung else None
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.close(source)
    os.close(handle)
    if hung:
        return {"lost": f"the harness hung for {patience:g} s"}
    if data in (b"", STARTED):
        return {"lost": f"the harness died ({status})"}
    return json.loads(data)


def main() -> None:
    name, limit_s, image = sys.argv[1], float(sys.argv[2]), sys.argv[3]
    try:
        peer = peers.make(name, image)
    except (ImportError, OSError) as error:
        print(json.dumps({"absent": f"{type(error).__name__}: {error}"}), flush=True)
        return
    print(json.dumps({"ready": name}), flush=True)
    for line in sys.stdin:
        result = watched(peer, json.loads(line), limit_s, root=name == "docker run")
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
