"""Every program of `attacks` is contained, and the sandbox goes on as if nothing had been."""

import platform
from pathlib import Path

import pytest
from attacks import ATTACK_LIMITS, ATTACKS

from palestra.sandbox import Limits, LocalSandbox, Status


@pytest.fixture(scope="module")
def arena():
    with LocalSandbox(limits=ATTACK_LIMITS) as made:
        bystander = made.open()
        bystander.run("witness = 'untouched'")
        yield made, bystander
        assert bystander.run("witness").value == "'untouched'"


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_contained(arena, attack):
    sandbox, bystander = arena
    if attack.native and sandbox.tier != "native":
        pytest.skip(f"the {sandbox.tier} tier does not promise this: {sandbox.missing}")
    if "syscall(" in attack.code and platform.machine() != "x86_64":
        pytest.skip("written with the call numbers of x86-64")
    with sandbox.open() as session:
        # Only what goes on for ever has to be stopped soon.
        wall_s = 0.8 if Status.TIMEOUT in attack.ends else 20.0
        result = session.run(attack.code, wall_s=wall_s)
        assert result.status in attack.ends, result
        assert "WORKED" not in result.stdout
        if attack.ends == (Status.OK,):
            assert "SAFE" in result.stdout, result
        again = session.run("print(6 * 7)")
        if again.status is not Status.OK:  # it broke its own interpreter; the next is fresh
            again = session.run("print(6 * 7)")
            assert "a fresh interpreter" in again.stderr
        assert again.stdout.endswith("42\n"), again
    assert bystander.run("witness").value == "'untouched'"


def test_next_session_sees_nothing_of_the_last(arena):
    sandbox, _ = arena
    with sandbox.open() as session:
        session.run("import json, builtins\nbuiltins.secret = 1; json.dumps = None")
        session.run("open('numpy.py', 'w').write('1/0')")
    with sandbox.open() as session:
        result = session.run(
            "import os, json, numpy\njson.dumps(1), 'secret' in globals(), os.listdir('.')"
        )
        assert result.value == "('1', False, [])"


def test_answers_and_the_callers_code_are_not_importable(arena):
    sandbox, _ = arena
    if "fs" in sandbox.missing:
        pytest.skip("without a private root the caller's path stays importable where readable")
    with sandbox.open() as session:
        for name in ("palestra", "gymnasium", "pytest"):
            assert "ModuleNotFoundError" in session.run(f"import {name}").stderr
        seen = session.run("import gc, sys; [m for m in sys.modules if 'palestra' in m]").value
        assert "envs" not in seen


def test_nobody_is_root_inside(arena):
    sandbox, _ = arena
    with sandbox.open() as session:
        result = session.run("import os; (os.getuid() == 0, os.geteuid() == 0)")
        if "uid" not in sandbox.missing:
            assert result.value == "(False, False)"


def test_cpu_limit_holds_over_threads_and_is_renewed_for_each_call(arena):
    sandbox, _ = arena
    burn = (
        "import time\nend = time.process_time() + {}\nwhile time.process_time() < end: pass\n'done'"
    )
    with sandbox.open(Limits(cpu_s=0.25, wall_s=20)) as session:
        for _ in range(4):
            assert session.run(burn.format(0.15)).value == "'done'"
        over = session.run(burn.format(15))
        assert over.status is Status.TIMEOUT
        assert "CPU limit" in over.stderr
        assert over.cpu_s < 5


def test_timed_out_programs_leave_no_process(arena):
    sandbox, _ = arena

    def below(pid):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        found = [int(child) for child in children.split()]
        return found + [g for child in found for g in below(child)]

    before = len(below(sandbox.server_pid))
    with sandbox.open() as session:
        for _ in range(3):
            assert session.run("while True: pass", wall_s=0.1).status is Status.TIMEOUT
    with sandbox.open() as session:
        session.run("1")
        assert len(below(sandbox.server_pid)) <= before + 2
