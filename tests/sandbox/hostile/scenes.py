"""Attacks that take more than a program; here those by files, in `branches` those by copies.

Each plays against a sandbox and raises AssertionError when it is not contained. A SandboxError
that is not expected, or any other exception, is a failure too.
"""

# The programs read better unbroken.
# ruff: noqa: E501

from __future__ import annotations

import textwrap
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from palestra.sandbox import Execution, ProgramFault, Sandbox, Session, Status

from .attack import ATTACK_LIMITS
from .witness import Witness

Play = Callable[[Sandbox, Witness], Awaitable[None]]
FORK = ("fork",)
ENOUGH_S = 20.0


@dataclass(frozen=True)
class Scene:
    """`number`, `name` and `walls` as for an `Attack`."""

    number: int
    name: str
    play: Play
    walls: tuple[str, ...] = ()
    slow: bool = False

    @property
    def id(self) -> str:
        return f"{self.number:02}-{self.name}"


SCENES: list[Scene] = []


def scene(number: int, walls: tuple[str, ...] = ()) -> Callable[[Play], Play]:
    """Add a function to `SCENES` under its name."""

    def add(play: Play) -> Play:
        SCENES.append(Scene(number, play.__name__.replace("_", "-"), play, walls))
        return play

    return add


async def run(session: Session, code: str, **options: float | str | bytes) -> Execution:
    """Run an indented program within a generous time."""
    text = textwrap.dedent(code).strip()
    return await session.arun(text, **{"wall_s": ENOUGH_S, **options})  # type: ignore[arg-type]


async def good(session: Session, code: str, **options: float | str | bytes) -> str:
    """Run a program that must end well; what it printed and its value."""
    result = await run(session, code, **options)
    assert result.status is Status.OK, result
    return result.stdout + (result.value or "")


@scene(60)
async def names_that_no_file_should_have(sandbox: Sandbox, _: Witness) -> None:
    async with await sandbox.aopen() as session:
        made = await good(
            session,
            """
            import os
            names = [b'a\\nb', b'-rf', b'~', b' ', b'..x', b'x' * 255, b'\\xff\\xfe', b'\\x1b[2J', b'a\\\\b',
                     '\\u202etxt.exe'.encode(), b'$(id)', b"';--", b'.stdin', b'%s%n']
            for n in names:
                with open(n, 'wb') as f: f.write(b'content of ' + n)
            len(names)
            """,
        )
        names = await session.alist_files()
        assert len(names) == int(made), names
        for name in names:
            data = await session.aread_file(name)
            assert data == b"content of " + name.encode("utf-8", "surrogateescape"), name


@scene(60)
async def names_that_lead_outside(sandbox: Sandbox, witness: Witness) -> None:
    outside = str(witness.secret)
    bad = ["", ".", "..", "/", outside, f"..{outside}", f"a/../../..{outside}", "a//b", "a/./b"]
    bad += ["../" * 9 + outside, "a\0b", "x" * 300, "a/" * 100 + "a", "\ud800", "a/"]
    async with await sandbox.aopen() as session:
        await good(session, "import os; os.mkdir('a')")
        for name in bad:
            for action in (session.aread_file(name), session.awrite_file(name, b"attack")):
                try:
                    await action
                except ValueError:
                    continue
                raise AssertionError(f"{name!r} was taken")
        assert await session.alist_files() == []


@scene(45)
async def links_as_results(sandbox: Sandbox, witness: Witness) -> None:
    async with await sandbox.aopen() as session:
        tried = f"""
            import os
            os.mkdir('folder')
            for make in (os.symlink, os.link):
                for target, name in (({str(witness.secret)!r}, 'answer'), ('/', 'root'), (os.__file__, 'hard')):
                    try: make(target, name)
                    except OSError: pass
            try: os.rename({str(witness.folder)!r}, 'folder/moved')
            except OSError: pass
            """
        await good(session, tried)
        for name in ("answer", "hard", f"root{witness.secret}", "folder/moved/x"):
            with suppress(FileNotFoundError, NotADirectoryError, ValueError):
                data = await session.aread_file(name)
                raise AssertionError(f"{name} was followed: {data[:99]!r}")


@scene(59)
async def no_regular_file_as_result(sandbox: Sandbox, _: Witness) -> None:
    async with await sandbox.aopen() as session:
        await good(
            session,
            """
            import ctypes, os
            os.mkdir('folder')
            for make in (os.mkfifo, lambda n: os.mknod(n, 0o20666, os.makedev(1, 8))):
                try: make('pipe')
                except OSError: pass
            open('white', 'w'); ctypes.CDLL(None).renameat2(-100, b'white', -100, b'moved', 4)
            """,
        )
        for name in ("folder", "pipe", "nothing"):
            try:
                await session.aread_file(name)
            except FileNotFoundError:
                continue
            raise AssertionError(f"{name} was read")
        for name in ("folder", "folder/x/y"):
            with suppress(OSError, ProgramFault):
                await session.awrite_file(name, b"x")
        assert await good(session, "'alive'") == "'alive'"


@scene(58)
async def files_larger_than_may_be_read(sandbox: Sandbox, _: Witness) -> None:
    async with await sandbox.aopen() as session:
        size = ATTACK_LIMITS.file_bytes
        await good(session, f"open('sparse', 'wb').truncate({size}); open('s', 'w').write('x' * 9)")
        assert len(await session.aread_file("sparse")) == size
        for name, most in (("sparse", size - 1), ("sparse", 0), ("s", 8)):
            try:
                await session.aread_file(name, max_bytes=most)
            except ValueError:
                continue
            raise AssertionError(f"more than {most} bytes of {name} were read")
        assert await session.aread_file("s", max_bytes=9) == b"x" * 9


@scene(56)
async def results_that_unpack_into_harm(sandbox: Sandbox, _: Witness) -> None:
    """What comes back is bytes, as they were: nobody here unpacks or unpickles."""
    async with await sandbox.aopen() as session:
        await good(
            session,
            """
            import io, pickle, zipfile
            class V:
                def __reduce__(self): return (print, ('WORKED',))
            open('p', 'wb').write(pickle.dumps(V()))
            with zipfile.ZipFile('z', 'w', 8) as z: z.writestr('../../x', bytes(1 << 20))
            """,
        )
        assert b"WORKED" in await session.aread_file("p")
        assert b"../../x" in await session.aread_file("z")


@scene(59)
async def files_that_move_while_they_are_read(sandbox: Sandbox, _: Witness) -> None:
    async with await sandbox.aopen() as session:
        await good(
            session,
            """
            import os, threading
            def swap():
                while True:
                    try:
                        open('answer', 'w').write('x' * 5000); os.unlink('answer')
                        os.mkdir('answer'); os.rmdir('answer')
                    except OSError: pass
            threading.Thread(target=swap, daemon=True).start()
            """,
        )
        for number in range(30):
            await good(session, "1")
            with suppress(OSError, ProgramFault):
                assert set(await session.aread_file("answer")) <= set(b"xy")
            if number % 3 == 0:
                with suppress(OSError, ProgramFault):
                    await session.awrite_file("answer", b"y" * number)


@scene(70, walls=("fs",))
async def no_room_for_files(sandbox: Sandbox, _: Witness) -> None:
    async with await sandbox.aopen() as session:
        await good(
            session,
            """
            import os
            open('file', 'w').write('x'); os.mkdir('shut', 0)
            try:
                while True: open(f'n{len(os.listdir())}', 'w').write('x' * 99999)
            except OSError: pass
            """,
        )
        for name, data in (("file/below", b"x"), ("shut", b"x"), ("file", b"y" * (1 << 20))):
            with suppress(OSError, ProgramFault):
                await session.awrite_file(name, data)
                raise AssertionError(f"{name} was written")
        assert await session.aread_file("file") == b"x"
