"""The doctor: on this machine as it is, and on sandboxes and hosts that lack something."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from palestra.sandbox import Execution, LocalSandbox, SandboxError, Session, Status
from palestra.sandbox.base import Sandbox
from palestra.sandbox.doctor import KEYS, Report, Result, examine, machine, outside
from palestra.sandbox.doctor.advice import in_container, namespaces
from palestra.sandbox.local import landlock, seccomp


def small() -> LocalSandbox:
    return LocalSandbox(("math",))


@pytest.fixture(scope="module")
def report() -> Report:
    return examine(small)


def rows(report: Report) -> dict[str, Result]:
    return {row.key: row.result for row in report.rows}


def test_every_guarantee_has_one_row_in_a_fixed_order(report):
    assert tuple(row.key for row in report.rows) == KEYS
    assert all(row.shown for row in report.rows)
    assert all(row.result is not Result.HOLDS or not row.advice for row in report.rows)
    assert json.loads(json.dumps(report.to_json()))["tier"] == report.tier


def test_at_full_strength_everything_about_sessions_holds(report, native):
    found = rows(report)
    needed = [key for key in KEYS if key not in ("cgroup", "landlock", "docker", "runsc", "bwrap")]
    assert {key: found[key] for key in needed} == dict.fromkeys(needed, Result.HOLDS)
    assert report.lacking(needed) == []
    shown = {row.key: row.shown for row in report.rows}
    assert str(Path("/proc/self/ns/user").readlink()) in shown["user"]


def test_an_unknown_guarantee_is_an_error(report):
    with pytest.raises(ValueError, match="unknown guarantee 'nett'; there are user, pid"):
        report.lacking(["net", "nett"])


def test_nothing_of_the_examination_stays(report):
    assert "PALESTRA_DOCTOR" not in os.environ
    hidden = Path(next(row.shown for row in report.rows if row.key == "fs").partition(":")[0])
    assert hidden.name.startswith("palestra-doctor-")
    assert not hidden.exists()


def test_a_sandbox_that_does_not_start_is_an_error():
    def broken() -> Sandbox:
        raise SandboxError("no such thing here")

    with pytest.raises(SandboxError, match="no such thing"):
        examine(broken)
    assert "PALESTRA_DOCTOR" not in os.environ


class BareSession(Session):
    """A bare interpreter in a subprocess: with a clock, and without any wall."""

    async def arun(self, code, *, wall_s=None, stdin=b""):
        return self.run(code, wall_s=wall_s, stdin=stdin)

    def run(self, code, *, wall_s=None, stdin=b""):
        with tempfile.TemporaryFile() as out:
            child = subprocess.Popen(
                [sys.executable, "-c", code],
                stdout=out,
                stderr=subprocess.STDOUT,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2 << 20, 2 << 20)),
            )
            try:
                status = Status.ERROR if child.wait(1.5) else Status.OK
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
                status = Status.TIMEOUT
            out.seek(0)
            return Execution(out.read().decode(), "", None, status, 1.5, cpu_s=9.0)

    async def afork(self):
        raise SandboxError("a subprocess is not copied")

    def fork(self):
        raise SandboxError("a subprocess is not copied")

    def _no_files(self, *args, **kwargs):
        raise SandboxError("no files")

    read_file = write_file = list_files = _no_files
    aread_file = awrite_file = alist_files = _no_files

    def close(self):
        pass


class BareSandbox(Sandbox):
    async def aopen(self, limits=None, *, seed=0, rollback=False):
        return BareSession()

    def open(self, limits=None, *, seed=0, rollback=False):
        return BareSession()

    @property
    def tier(self):
        return "bare"

    @property
    def missing(self):
        return {"everything": "it is a subprocess"}

    def close(self):
        pass


@pytest.fixture
def in_a_scratch_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the attempts write files


def test_a_bare_subprocess_passes_nothing_that_it_does_not_hold(in_a_scratch_folder):
    report = examine(BareSandbox)
    found = rows(report)
    broken = ["fs", "env", "seccomp", "memory", "cpu", "tasks", "disk", "output", "fork"]
    assert {key: found[key] for key in broken} == dict.fromkeys(broken, Result.BROKEN)
    assert found["root"] is found["net"] is Result.BROKEN
    assert found["user"] is found["gone"] is Result.ABSENT
    assert [row.key for row in report.lacking(["fs", "wall"])] == ["fs"]


HOST = """
import errno, json
from palestra.sandbox import LocalSandbox
from palestra.sandbox.doctor import examine
from palestra.sandbox.local import kernel, seccomp
machine = seccomp.machine()
code = seccomp._prologue(machine) + seccomp._on_call(
    machine.calls["unshare"], [seccomp._op(0x06, seccomp.ERRNO(errno.EPERM))])
kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
seccomp.install(machine, b"".join([*code, seccomp._op(0x06, seccomp.ALLOW)]))
print(json.dumps(examine(lambda: LocalSandbox(("math",))).to_json()))
"""


def test_where_namespaces_are_refused_the_kernel_s_reason_and_a_way_out_are_told():
    if seccomp.machine() is None or not seccomp.usable() or not landlock.version():
        pytest.skip("needs seccomp filters and Landlock")
    done = subprocess.run(
        [sys.executable, "-c", HOST], capture_output=True, text=True, timeout=100, check=True
    )
    told = json.loads(done.stdout)
    found = {row["key"]: row for row in told["rows"]}
    assert told["tier"] == "landlock"
    for key in ("user", "pid", "net-ns", "mount", "ipc", "uts"):
        assert found[key]["result"] == "does not hold"
        assert "Operation not permitted" in found[key]["shown"]
    for key in ("root", "fork", "disk", "tasks", "user"):
        assert found[key]["result"] == "does not hold"
        assert found[key]["advice"] == namespaces()
    for key in ("fs", "net", "env", "seccomp", "memory", "cpu", "wall", "output", "gone"):
        assert found[key]["result"] == "holds", found[key]


@pytest.mark.parametrize(
    ("switch", "value", "words"),
    [
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "AppArmor"),
        ("kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0", "user.max_user_namespaces=15000"),
        ("user/max_user_namespaces", "15000", "shows why"),
    ],
)
def test_advice_names_the_switch_that_is_off(switch, value, words, tmp_path, monkeypatch):
    monkeypatch.setattr("palestra.sandbox.doctor.advice.in_container", lambda: False)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    (tmp_path / switch).parent.mkdir()
    (tmp_path / switch).write_text(f"{value}\n")
    assert words in namespaces(tmp_path)


def test_a_container_is_known_by_its_marks(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert not in_container(tmp_path)
    (tmp_path / ".dockerenv").touch()
    assert in_container(tmp_path)


def test_docker_is_asked_where_its_host_says(monkeypatch, tmp_path):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    assert machine.docker() == (
        Result.ABSENT,
        "no daemon answers: [Errno 2] No such file or directory",
    )
    monkeypatch.setenv("DOCKER_HOST", "ssh://somewhere")
    assert "neither unix:// nor tcp://" in machine.docker()[1]
    assert machine.runsc()[0] is Result.ABSENT


def test_a_missing_program_is_not_available(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.bubblewrap() == (Result.ABSENT, "no program bwrap on the PATH")


def test_a_process_of_our_own_is_not_taken_for_a_walled_one():
    for name in outside.NAMESPACES:
        assert outside.namespace(name, os.getpid())[0] is Result.BROKEN
    if os.geteuid() == 0:
        assert outside.unprivileged(os.getpid())[0] is Result.BROKEN
    assert outside.session_pid([os.getpid()], 10**9) is None
