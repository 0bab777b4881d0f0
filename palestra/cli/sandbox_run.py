"""`palestra sandbox run FILE`: a program, behind the walls, with its own output and a verdict."""

from __future__ import annotations

import io
import json
import re
import sys
import tokenize
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

from .errors import UsageError
from .parsing import parse
from .sandbox_backend import Backend, make_sandbox, words

if TYPE_CHECKING:
    from ..sandbox import Execution, Limits, Sandbox

# The numbers that shells, timeout(1), docker run and the kernel's killer give these ends.
EXIT_CODES = {"ok": 0, "error": 1, "timeout": 124, "crashed": 134, "memory": 137, "output": 153}
LOST = 125

TRACEBACK = "Traceback (most recent call last):\n"
CHAINED = "\nDuring handling of the above exception, another exception occurred:\n\n"
# How a syntax error of the program begins: with the frame in which it was parsed.
_PARSER = re.compile(rf'\A{re.escape(TRACEBACK)}  File "[^"\n]*ast\.py", .*, in parse\n(    .*\n)*')


@dataclass(frozen=True)
class Options:
    """Run a Python file in the sandbox, as `python FILE` would, and pass its output on.

    The program sees no file, no network and no environment of this machine. Its working folder
    is empty; it can import the standard library and the packages of --preload. A line on
    standard error says how it ended.

    The exit code is 0 when it ran to its end, 1 when it raised an exception (or left with a code
    of its own), 124 at the time limit, 134 when it crashed, 137 at the memory limit, 153 at the
    output limit, 125 when the sandbox itself failed, 2 for a wrong command line.
    """

    file: Positional[str]
    """The program; - reads it from standard input."""
    args: Positional[tuple[str, ...]] = ()
    """Arguments of the program, in its sys.argv; after -- if they begin with a dash."""
    stdin: str = ""
    """A file that the program reads as its standard input; - passes ours on."""
    backend: Backend = "local"
    """Where it runs: on this machine, in a Docker container, or in one under gVisor."""
    preload: str = "numpy,sympy"
    """Packages that it can import, separated by commas; they are loaded beforehand."""
    require: str = ""
    """Layers without which it is not run, such as net,fs,seccomp."""
    seed: int = 0
    """Fixes the global random generators of Python and numpy."""
    wall_s: float = 10.0
    """Seconds by the clock."""
    cpu_s: float = 10.0
    """Seconds of CPU time."""
    memory_bytes: int = 2 << 30
    """Memory, in bytes."""
    tasks: int = 64
    """Threads, and processes where there can be any."""
    output_bytes: int = 1 << 20
    """What is kept of standard output and standard error together, in bytes."""
    output_kill_bytes: int = 16 << 20
    """A program that writes so much is stopped."""
    file_bytes: int = 64 << 20
    """Size of one file, in bytes."""
    tmp_bytes: int = 64 << 20
    """Size of all its files together, in bytes."""
    tmp_inodes: int = 4096
    """Number of its files and folders."""
    descriptors: int = 256
    """Files that it may have open."""
    echo: bool = False
    """Print the value of a last line that is an expression, as notebooks do."""
    json: bool = False
    """Print a JSON object with the output and the verdict instead."""


EXAMPLES = (
    "program.py",
    "program.py --wall-s 2 --memory-bytes 268435456 --stdin input.txt",
    "program.py --backend docker --json -- --size 3",
    "- --echo < program.py",
)


def main(argv: Sequence[str]) -> int:
    try:
        options = parse(Options, argv, command="sandbox run", examples=EXAMPLES)
    except SystemExit as end:
        if end.code and (theirs := _perhaps_of_the_program(argv)):
            hint = f"if {theirs} is meant for the program, give its arguments after --"
            print(f"palestra: {hint}", file=sys.stderr)
        raise
    from ..sandbox import SandboxError

    limits = _limits(options)
    if options.stdin == options.file == "-":
        raise UsageError("FILE and --stdin cannot both be standard input: name a file for one")
    stdin = _read(options.stdin, "--stdin") if options.stdin else b""
    code, name = _program(options)
    preload, require = words(options.preload), words(options.require)
    if options.backend == "local":
        _warn_of_absent(preload)
    try:
        with make_sandbox(options.backend, preload=preload, require=require) as sandbox:
            execution = _run(sandbox, options, limits, code, name, stdin)
            tier = sandbox.tier
    except SandboxError as error:
        print(f"palestra: the sandbox failed: {' '.join(str(error).split())}", file=sys.stderr)
        return LOST
    if options.json:
        print(json.dumps({**asdict(execution), "tier": tier}, indent=2))
    else:
        _pass_on(execution, tier, echo=options.echo)
    return EXIT_CODES[execution.status]


def _run(
    sandbox: Sandbox, options: Options, limits: Limits, code: str, name: str, stdin: bytes
) -> Execution:
    with sandbox.open(limits, seed=options.seed) as session:
        argv = [options.file, *options.args]
        session.run(f"import sys; sys.argv[:] = {argv!r}; __file__ = {name!r}; del sys")
        done = session.run(code, stdin=stdin)
    # Tracebacks speak of the file, as they would without a sandbox.
    stderr = done.stderr.replace('File "<cell 2>"', f'File "{name}"')
    return replace(done, stderr=_PARSER.sub("", stderr))


def _perhaps_of_the_program(argv: Sequence[str]) -> str:
    """The first flag after the file that is none of ours, unless a -- stands before it."""
    ours = {field.name for field in fields(Options)}
    for word in argv[1:]:
        if word == "--":
            break
        if word.startswith("--") and word[2:].partition("=")[0].replace("-", "_") not in ours:
            return word
    return ""


def _warn_of_absent(preload: Sequence[str]) -> None:
    for name in preload:
        if find_spec(name.partition(".")[0]) is None:
            text = f"--preload: {name!r} is not installed here, so the program cannot import it"
            print(f"palestra: {text}", file=sys.stderr)


def _program(options: Options) -> tuple[str, str]:
    """The source and its name."""
    data = _read(options.file, "program")
    try:
        # As the interpreter reads a file: its coding line or UTF-8, any kind of line end.
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        text = data.decode(encoding)
    except (SyntaxError, UnicodeDecodeError) as error:
        raise UsageError(f"{options.file} is not a Python source file: {error}") from error
    return text, "<stdin>" if options.file == "-" else options.file


def _read(path: str, what: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"the {what} {path!r} cannot be read: {error.strerror}") from error


def _limits(options: Options) -> Limits:
    from ..sandbox import Limits

    given = {field.name: getattr(options, field.name) for field in fields(Limits)}
    try:
        return Limits(**given)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _pass_on(execution: Execution, tier: str, *, echo: bool) -> None:
    sys.stdout.write(execution.stdout)
    if echo and execution.value is not None:
        print(execution.value)
    sys.stdout.flush()
    stderr, left = exit_of(execution.stderr)
    sys.stderr.write(stderr)
    if stderr and not stderr.endswith("\n"):
        sys.stderr.write("\n")
    cut = f", {left}" if left else ""
    cut += ", output cut" if execution.truncated else ""
    print(
        f"palestra: {execution.status} in {execution.duration_s:.3f} s "
        f"({execution.cpu_s:.3f} s of CPU){cut}, tier {tier}",
        file=sys.stderr,
    )


def exit_of(stderr: str) -> tuple[str, str]:
    """Standard error as `python FILE` shows a program that leaves by `sys.exit`, and its code.

    The interpreter prints no traceback of SystemExit, nor of what it was raised in handling:
    only the argument, where that is no number.
    """
    head, found, trace = stderr.rpartition(TRACEBACK)
    frames_end = re.search(r"^(?! )", trace, re.MULTILINE)
    last = trace[frames_end.start() :] if frames_end else ""
    if not found or not re.match(r"SystemExit(: |\n|\Z)", last):
        return stderr, ""
    while head.endswith(CHAINED):
        head = head.rpartition(TRACEBACK)[0]
    said = last.removeprefix("SystemExit").removeprefix(": ").rstrip("\n")
    if re.fullmatch(r"-?\d+", said):
        return head, f"exit code {said}"
    return head + said, "exit code 1"
