"""Play attacks on a back end: `python play.py BACKEND ID...`, outcomes as JSON lines.

A process of its own, so that it can be another user, wall itself in, and be lost.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
import time
import traceback
from collections.abc import AsyncIterator, Sequence
from dataclasses import asdict

from attacks import ATTACK_LIMITS, ATTACKS, SCENES, Attack, Outcome
from hostile.scenes import Scene
from hostile.witness import Witness

from palestra.sandbox import LocalSandbox, Sandbox, SandboxError, Session, Status
from palestra.sandbox.local import kernel, seccomp

AT_ONCE = 4
ENDLESS_S, ENDING_S, AGAIN_S, SCENE_S = 0.4, 20.0, 2.0, 60.0
TAKEN_OVER = ("a fresh interpreter", "goes on from the state before")


def refuse_namespaces() -> None:
    """A filter on this process for good, as a default container has it."""
    machine = seccomp.machine()
    assert machine is not None
    refuse = [seccomp._op(0x06, seccomp.ERRNO(errno.EPERM))]
    code = seccomp._prologue(machine) + seccomp._on_call(machine.calls["unshare"], refuse)
    kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
    seccomp.install(machine, b"".join([*code, seccomp._op(0x06, seccomp.ALLOW)]))


def back_end(name: str) -> Sandbox:
    """The back end that a name of `backends.BACKENDS` stands for."""
    if name.startswith("docker"):
        from palestra.sandbox.docker import DockerSandbox

        runtime = name.partition("-")[2] or None
        return DockerSandbox(limits=ATTACK_LIMITS, runtime=runtime, patience_s=60.0)
    if name.startswith("landlock"):
        refuse_namespaces()
    return LocalSandbox(
        limits=ATTACK_LIMITS, profile="process" if name == "local-process" else "compute"
    )


async def opened(sandbox: Sandbox, how: str) -> Session:
    """A session; with `how` a copy of another one, or one that undoes calls that are killed."""
    session = await sandbox.aopen(rollback=how == "rollback")
    if how != "copy":
        return session
    async with session:
        await session.arun("before = 1")
        return await session.afork()


async def one(sandbox: Sandbox, attack: Attack | Scene, witness: Witness, how: str = "") -> Outcome:
    """Play one attack, then see what is left of its session and of the sandbox."""
    outcome = Outcome()
    start = time.monotonic()
    try:
        if isinstance(attack, Scene):
            await asyncio.wait_for(attack.play(sandbox, witness), SCENE_S)
        else:
            await _program(await opened(sandbox, how), attack, witness, outcome)
        if isinstance(attack, Attack) and attack.later:
            after = await sandbox.arun(attack.later, wall_s=ENDING_S)
            outcome.later = f"{after.status}: {after.stdout} {after.stderr[-2000:]}"
        fresh = await sandbox.arun("print(6 * 7)", wall_s=ENDING_S)
        outcome.fresh = "" if fresh.stdout == "42\n" else f"a new session: {fresh}"
    except SandboxError as error:
        outcome.lost = f"SandboxError: {error}"
    except Exception as error:  # noqa: BLE001 - whatever a hostile program makes the host raise
        where = "".join(traceback.format_exception(error)[-3:])
        outcome.lost = f"the host raised {type(error).__name__}: {error}\n{where}"
    outcome.harm = witness.harm(outcome.stdout, outcome.stderr, outcome.then)
    outcome.seconds = time.monotonic() - start
    return outcome


async def _program(session: Session, attack: Attack, witness: Witness, outcome: Outcome) -> None:
    async with session:
        wall_s = ENDLESS_S if attack.endless else ENDING_S
        result = await session.arun(witness.fill(attack.code), wall_s=wall_s)
        outcome.ended = result.status.value
        outcome.stdout = f"{result.stdout[-4000:]}{(result.value or '')[-999:]}"
        outcome.stderr = result.stderr[-2000:]
        if attack.then:
            after = await session.arun(witness.fill(attack.then), wall_s=5.0)
            outcome.then = f"{after.status}: {after.stdout[-2000:]} {after.stderr[-2000:]}"
        outcome.same = "" if attack.spoils else await _goes_on(session)


async def _goes_on(session: Session) -> str:
    """What is wrong with the session's next call, or the one after it; empty if nothing."""
    again = await session.arun("print(6 * 7)", wall_s=AGAIN_S)
    first = again
    if again.status is not Status.OK:  # it broke its own interpreter; another takes over
        again = await session.arun("print(6 * 7)", wall_s=ENDING_S)
        if not any(words in first.stderr + again.stderr for words in TAKEN_OVER):
            return f"the second call after it has no interpreter that took over: {again}"
    return "" if "42\n" in again.stdout else f"the call after it: {again}"


async def play(
    sandbox: Sandbox, attacks: Sequence[Attack | Scene], witness: Witness, how: str = ""
) -> AsyncIterator[tuple[Attack | Scene, Outcome]]:
    """Attacks and what became of them, several at once; a bystander must see none of it."""
    places = asyncio.Semaphore(AT_ONCE)

    async def queued(attack: Attack | Scene) -> tuple[Attack | Scene, Outcome]:
        async with places:
            return attack, await one(sandbox, attack, witness, how)

    async with await sandbox.aopen() as bystander:
        await bystander.arun("witness = 'untouched'")
        for done in asyncio.as_completed([queued(attack) for attack in attacks]):
            attack, outcome = await done
            seen = await bystander.arun("witness", wall_s=ENDING_S)
            if seen.value != "'untouched'":
                outcome.same = f"{outcome.same} another session: {seen}"
            yield attack, outcome


async def main(name: str, ids: list[str]) -> None:
    wanted = [attack for attack in (*ATTACKS, *SCENES) if attack.id in ids]
    with Witness() as witness, back_end(name) as sandbox:
        # Scenes with a wall that is not there have nothing to play with.
        missing = set(sandbox.missing)
        attacks = [a for a in wanted if isinstance(a, Attack) or not missing & set(a.walls)]
        print(json.dumps({"tier": sandbox.tier, "missing": sandbox.missing}), flush=True)
        how = name.rpartition("-")[2]
        async for attack, outcome in play(sandbox, attacks, witness, how):
            print(json.dumps({"id": attack.id, **asdict(outcome)}), flush=True)


if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    asyncio.run(main(sys.argv[1], json.load(sys.stdin)))
