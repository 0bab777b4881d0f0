"""Files in and out by a path that reaches nothing else and never blocks."""

import asyncio
import errno
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palestra.sandbox import Limits, ProgramFault, SandboxError
from palestra.sandbox.local import seccomp, transfer, workfiles
from palestra.sandbox.paths import MAX_DEPTH, plain_path


def test_there_and_back(session):
    session.write_file("data/in.bin", bytes(range(256)))
    assert session.run("open('data/in.bin', 'rb').read() == bytes(range(256))").value == "True"
    session.run("open('out.txt', 'w').write('made inside')")
    assert session.read_file("out.txt") == b"made inside"
    assert session.list_files() == ["data/in.bin", "out.txt"]


def test_the_asynchronous_twins(session):
    async def scenario():
        await session.awrite_file("a/b", b"x")
        return await session.aread_file("a/b"), await session.alist_files()

    assert asyncio.run(scenario()) == (b"x", ["a/b"])


def test_replacing_leaves_nothing_of_the_old(session):
    for data in (b"long" * 1000, b"short", b""):
        session.write_file("f", data)
        assert session.read_file("f") == data
    session.run("import os; os.chmod('f', 0o644); f = open('f')")
    session.write_file("f", b"seen by whoever has it open")
    assert session.run("f.read()").value == "'seen by whoever has it open'"


BAD = [
    *("", "/", "/etc/passwd", "..", "../x", "a/../../x", "a/..", ".", "./a", "a//b", "a/"),
    *("nul\0", "a/b\0c", "\ud800", "x" * 256, "a/" * 3000 + "a", "a/" * MAX_DEPTH + "a"),
]


@pytest.mark.parametrize("path", BAD, ids=lambda path: ascii(path)[:20])
def test_other_paths_are_refused(session, path):
    for use in (lambda: session.read_file(path), lambda: session.write_file(path, b"")):
        with pytest.raises(ValueError, match=r"plain relative path|surrogates"):
            use()
    assert session.list_files() == []


@pytest.mark.parametrize("path", ["new\nline", "sp ace", "ü/ß", "bytes\udcff", "-rf", "'\"`$;"])
def test_odd_names_are_names(session, path):
    session.write_file(path, b"1")
    assert session.read_file(path) == b"1"
    assert session.list_files() == [path]
    assert session.run(f"open({path!r}).read()").value == "'1'"


@given(st.text(max_size=20) | st.lists(st.sampled_from([*"a./\0", ".."])).map("".join))
def test_what_passes_as_a_path_stays_inside(path):
    try:
        parts = plain_path(path)
    except ValueError:
        return
    assert "/".join(parts) == path
    inside = os.path.realpath(os.fsencode("/nowhere/" + path))
    assert inside.startswith(b"/nowhere/")
    assert len(inside) > len("/nowhere/")


def test_what_is_no_regular_file_is_not_found(session):
    session.run("import os; os.makedirs('folder/sub'); open('file', 'w').close()")
    for path in ("folder", "absent", "folder/absent", "file/below"):
        with pytest.raises(FileNotFoundError):
            session.read_file(path)
    for path in ("folder", "file/below"):
        with pytest.raises(ProgramFault, match=r"[Dd]irectory") as caught:
            session.write_file(path, b"")
        assert caught.value.__cause__.filename == path
    assert session.run("1").value == "1"


def test_reads_are_bounded_also_where_a_file_is_only_said_to_be_large(sandbox):
    with sandbox.open(Limits(file_bytes=2 << 40)) as session:
        session.run("f = open('sparse', 'wb'); f.truncate(1 << 40); f.close()")
        with pytest.raises(ValueError, match="at most 1000 are read"):
            session.read_file("sparse", max_bytes=1000)
        session.write_file("small", b"x" * 1000)
        assert len(session.read_file("small", max_bytes=1000)) == 1000
        with pytest.raises(ValueError, match="at most 999"):
            session.read_file("small", max_bytes=999)
    with sandbox.open(Limits(file_bytes=1000)) as session:
        session.write_file("most", b"x" * 1000)
        assert len(session.read_file("most")) == 1000
        with pytest.raises(OSError, match="a file may have 1000") as caught:
            session.write_file("more", b"x" * 1001)
        assert caught.value.errno == errno.EFBIG


def test_a_file_that_grows_as_it_is_read_comes_to_an_end(tmp_path):
    path, stop = tmp_path / "log", threading.Event()
    path.write_bytes(b"x")

    def grow():
        with path.open("ab", buffering=0) as log:
            while not stop.is_set():
                log.write(b"x" * 65536)

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        with pytest.raises(ValueError, match="at most 5000000 are read"):
            while True:
                transfer.read(os.open(path, os.O_RDONLY), 5_000_000, "log")
    finally:
        stop.set()
        thread.join()


def test_neither_end_takes_a_pipe_for_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    root = os.open(tmp_path, os.O_PATH)
    try:
        for do, number in (("read", errno.EISDIR), ("write", errno.ENXIO)):
            with pytest.raises(OSError, match=r"regular|device") as caught:
                workfiles._open(root, {"do": do, "parts": ["pipe"]})
            assert caught.value.errno == number
    finally:
        os.close(root)
    with pytest.raises(FileNotFoundError):
        transfer.read(os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK), 10, "pipe")
    with pytest.raises(OSError, match="not a regular file"):
        transfer.write(os.open("/dev/null", os.O_WRONLY), b"x", "null")


@pytest.mark.parametrize("parts", [["link"], ["link", "file"], [".."], ["..", "file"], ["a/../.."]])
def test_the_server_follows_no_link_and_goes_up_nowhere(tmp_path, parts):
    (tmp_path / "file").write_text("outside")
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "link").symlink_to(tmp_path / "file" if len(parts) == 1 else tmp_path)
    root = os.open(inside, os.O_PATH)
    try:
        for do in ("read", "write"):
            with pytest.raises(OSError, match=r"links|directory|Not a|plain"):
                workfiles._open(root, {"do": do, "parts": parts})
        os.close(workfiles._list(root))
    finally:
        os.close(root)
    assert (tmp_path / "file").read_text() == "outside"


def test_a_full_folder_is_an_error_that_keeps_what_was_there(native):
    with native.open(Limits(tmp_bytes=1 << 20, tmp_inodes=20)) as session:
        session.write_file("kept", b"old")
        for path in ("kept", "new"):
            with pytest.raises(OSError, match="space") as caught:
                session.write_file(path, b"x" * (2 << 20))
            assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, path)
        assert session.list_files() == ["kept"]
        assert session.read_file("kept") == b"old"
        with pytest.raises(OSError, match="space"):
            for i in range(20):
                session.write_file(f"many/{i}", b"")
        session.run("import shutil; shutil.rmtree('many')")
        session.write_file("again", b"1")


def test_whose_fault_it_is_that_a_file_cannot_be_written(native):
    """A fresh session shows it: a program must not look like a failure of the machine's."""
    with native.open(Limits(tmp_bytes=1 << 20)) as session:
        session.run("x = 1")
        with pytest.raises(OSError, match="space"):  # too much for any session
            session.write_file("data", b"x" * (2 << 20))
        session.run("open('full', 'wb').write(bytes(900_000))")
        with pytest.raises(ProgramFault, match="space"):
            session.write_file("data", b"x" * (1 << 19))
        session.run("import os; os.remove('full')")
        session.write_file("data", b"x" * (1 << 19))


def test_modes_do_not_keep_the_host_out(native):
    with native.open() as session:
        session.run(
            "import os; os.mkdir('d'); open('d/f', 'w').write('x')\n"
            "os.chmod('d/f', 0); os.chmod('d', 0); os.chmod('.', 0)"
        )
        assert session.read_file("d/f") == b"x"
        assert session.list_files() == ["d/f"]
        session.write_file("d/g", b"y")


def test_lists_are_bounded(sandbox):
    with sandbox.open(Limits(tmp_inodes=30_000, wall_s=30, cpu_s=30)) as session:
        session.run("import os\nfor _ in range(100):\n    os.mkdir('d'); os.chdir('d')")
        session.run("open('deep', 'w').close(); os.chdir('/tmp'); open('top', 'w').close()")
        assert session.list_files() == ["top"]
        session.run("for i in range(21_000): open(str(i), 'w').close()")
        with pytest.raises(ProgramFault, match="too many files"):
            session.list_files()
        assert session.run("1").value == "1"


def test_moving_the_folder_about_gives_nothing_else(native):
    """Threads that run on while the host asks: they are stopped, and could not do harm."""
    with native.open() as session:
        session.run("import os, threading; os.mkdir('a'); open('a/f', 'w').write('inside')")
        session.run(
            "def swap():\n  while True:\n    os.rename('a', 'b'); os.rename('b', 'a')\n"
            "threading.Thread(target=swap, daemon=True).start()"
        )
        for _ in range(50):
            try:
                assert session.read_file("a/f") == b"inside"
            except FileNotFoundError:
                pass
            session.run("1")


def test_after_an_end_files_go_to_the_fresh_interpreter_and_the_next_call_says_so(session):
    session.write_file("old", b"1")
    session.run("import os; os._exit(1)")
    session.write_file("new", b"2")
    assert session.list_files() == ["new"]
    with pytest.raises(FileNotFoundError):
        session.read_file("old")
    assert "a fresh interpreter" in session.run("1").stderr
    assert session.run("1").stderr == ""


def test_a_program_dying_between_calls_is_noticed(session):
    session.run(
        "import threading, os, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.05), os._exit(5))).start()"
    )
    for _ in range(100):  # it dies within one of these, or before
        session.run("time.sleep(0.002)")
        session.write_file("f", b"x")
    assert session.read_file("f") == b"x"


def test_copies_have_files_of_their_own(native):
    with native.open() as session:
        session.write_file("f", b"one")
        with session.fork() as copy:
            copy.write_file("f", b"two")
            assert (session.read_file("f"), copy.read_file("f")) == (b"one", b"two")


def test_a_closed_session_and_a_lost_one_refuse(sandbox):
    session = sandbox.open()
    session.close()
    for use in (session.list_files, lambda: session.read_file("a")):
        with pytest.raises(SandboxError, match="closed"):
            use()


def test_no_descriptor_is_left_behind(session):
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        session.write_file("f", b"x")
        session.read_file("f")
        session.list_files()
        for path in ("absent", "f/below"):
            with pytest.raises(FileNotFoundError):
                session.read_file(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


HOST = """
import errno, json, os
from palestra.sandbox import LocalSandbox, SandboxError
from palestra.sandbox.local import kernel, seccomp
machine = seccomp.machine()
code = seccomp._prologue(machine) + seccomp._on_call(
    machine.calls["unshare"], [seccomp._op(0x06, seccomp.ERRNO(errno.EPERM))])
kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1)
seccomp.install(machine, b"".join([*code, seccomp._op(0x06, seccomp.ALLOW)]))
with LocalSandbox(("math", "random")) as sandbox:
    found = {"tier": sandbox.tier}
    with sandbox.open() as session:
        session.write_file("a/b", b"in")
        found["inside"] = session.run("open('a/b').read() + input()", stdin=" and input").value
        session.run("open('out', 'w').write('made inside'); import os; os.mkdir('d')")
        found["outside"] = session.read_file("out").decode()
        found["list"] = session.list_files()
        for path in ("d", "absent"):
            try:
                session.read_file(path)
            except FileNotFoundError as error:
                found[path] = error.errno
        found["link"] = session.run("os.symlink('/etc/passwd', 'l')").status
    try:
        sandbox.open(rollback=True)
    except SandboxError as error:
        found["rollback"] = str(error)
    found["stats"] = [sandbox.stats().opened, sandbox.stats().open]
print(json.dumps(found))
"""


def test_without_namespaces_it_is_the_same():
    if seccomp.machine() is None or not seccomp.usable():
        pytest.skip("needs seccomp filters")
    done = subprocess.run([sys.executable, "-c", HOST], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["tier"] in ("landlock", "seccomp")
    assert found["inside"] == "'in and input'"
    assert (found["outside"], found["list"]) == ("made inside", ["a/b", "out"])
    assert found["d"] == found["absent"] == errno.ENOENT
    assert found["link"] == "error"
    assert "rollback needs sessions that fork" in found["rollback"]
    assert found["stats"] == [1, 0]
