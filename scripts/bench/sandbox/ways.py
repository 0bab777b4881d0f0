"""The ways to run a program that `python scripts/bench/sandbox` compares, one a process.

Started as `ways.py NAME IMAGE`; says which jobs it can do, then reads lines `JOB COUNT REST` and
answers each with the seconds that every run took, after REST seconds of rest before each.
"""

from __future__ import annotations

import ast
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

PRINT = "print(6 * 7)"
LIVE = "6 * 7"
# Not what the server rehearses: other polynomial, other integrand, other matrix.
SYMPY = """
import numpy, sympy
x = sympy.Symbol("x")
print(sympy.factor(x**6 - 7*x**4 + 14*x**2 - 8))
print(sympy.integrate(x * sympy.cos(2 * x), (x, 0, sympy.pi / 3)))
print(round(numpy.linalg.det(numpy.array([[2.0, 1, 0], [1, 3, 1], [0, 1, 4]])), 6))
"""
SYMPY_SAYS = "18.0"
Job = Callable[[], None]
Jobs = dict[str, Job]


def check(output: str, code: str = PRINT) -> None:
    wanted = SYMPY_SAYS if code == SYMPY else "42"
    if wanted not in output:
        raise RuntimeError(f"expected {wanted} in the output, got {output!r}")


def fresh(run: Callable[[str], str]) -> Jobs:
    """The two one-shot jobs of a way that takes a program and returns its output."""
    return {
        "print": lambda: check(run(PRINT)),
        "sympy": lambda: check(run(SYMPY), SYMPY),
    }


def command(argv: list[str], **env: str) -> Callable[[str], str]:
    def run(code: str) -> str:
        return subprocess.run([*argv, code], capture_output=True, text=True, env=env).stdout

    return run


def palestra(ready: int | None) -> Iterator[Jobs]:
    from palestra.sandbox import LocalSandbox

    sandbox = LocalSandbox() if ready is None else LocalSandbox(ready=ready)
    with sandbox, sandbox.open() as session:
        copies = []

        def fork() -> None:
            while copies:
                copies.pop().close()
            copies.append(session.fork())

        jobs = fresh(lambda code: sandbox.run(code).stdout)
        jobs["live"] = lambda: check(session.run(LIVE).value or "")
        jobs["fork"] = fork
        yield jobs


def in_process() -> Iterator[Jobs]:
    """What a live call cannot be faster than: the same cell in this very process, unprotected."""

    def run() -> None:
        tree = ast.parse(LIVE)
        last = tree.body.pop()
        assert isinstance(last, ast.Expr)
        check(repr(eval(compile(ast.Expression(last.value), "<cell>", "eval"))))

    yield {"live": run}


def floor() -> Iterator[Jobs]:
    """Fork and exit of a process with the server's packages, rehearsed alike."""
    from palestra.sandbox.local.config import PRELOAD
    from palestra.sandbox.local.rehearsal import preload

    preload(list(PRELOAD))

    def fork() -> None:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)

    yield {"print": fork}


def bubblewrap() -> Iterator[Jobs]:
    program = shutil.which("bwrap")
    if program is None:
        raise RuntimeError("bwrap is not installed")
    folders = {"/usr", "/bin", "/lib", "/lib64", sys.prefix, sys.base_prefix}
    binds = [w for f in sorted(folders) if Path(f).exists() for w in ("--ro-bind", f, f)]
    isolated = ["--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
    places = ["--tmpfs", "/tmp", "--proc", "/proc", "--dev", "/dev"]
    argv = [program, *isolated, *binds, *places, sys.executable, "-I", "-c"]
    yield fresh(command(argv))


def gem() -> Iterator[Jobs]:
    from gem.tools.python_code_tool import PythonCodeTool

    tool = PythonCodeTool()
    yield fresh(lambda code: tool.execute_action(f"<python>{code}</python>")[2])


def smolagents() -> Iterator[Jobs]:
    from smolagents.local_python_executor import LocalPythonExecutor

    def executor() -> LocalPythonExecutor:
        made = LocalPythonExecutor(["numpy.*", "sympy.*"])
        made.send_tools({})
        return made

    def run(code: str) -> str:
        return executor()(code).logs

    live = executor()
    yield {**fresh(run), "live": lambda: check(str(live(LIVE).output))}


def jupyter() -> Iterator[Jobs]:
    from jupyter_client.manager import start_new_kernel

    def execute(client: object, code: str) -> str:
        said: list[str] = []

        def hear(message: dict[str, dict[str, object]]) -> None:
            content = message["content"]
            said.append(str(content.get("text", content.get("data", ""))))

        client.execute_interactive(code, output_hook=hear, timeout=60)  # type: ignore[attr-defined]
        return "".join(said)

    def run(code: str) -> str:
        manager, client = start_new_kernel()
        try:
            return execute(client, code)
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)

    manager, client = start_new_kernel()
    try:
        yield {**fresh(run), "live": lambda: check(execute(client, LIVE))}
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def llm_sandbox(image: str) -> Iterator[Jobs]:
    import docker
    from llm_sandbox import SandboxSession

    # It calls `python`, which Debian's images have only as `python3`, and keeps the entry point.
    recipe = f"FROM {image}\nUSER 0\nRUN ln -sf /usr/bin/python3 /usr/local/bin/python\n"
    built, _ = docker.from_env().images.build(
        fileobj=io.BytesIO(recipe.encode()), tag="palestra-bench-llm-sandbox", network_mode="none"
    )
    idle = {"entrypoint": ["sleep"], "command": ["infinity"], "network_mode": "none", "init": True}
    options = {"lang": "python", "image": built.tags[0], "skip_environment_setup": True}

    def session() -> SandboxSession:
        return SandboxSession(**options, runtime_configs=dict(idle))

    def run(code: str) -> str:
        with session() as opened:
            return str(opened.run(code).stdout)

    with session() as kept:
        yield {**fresh(run), "live": lambda: check(str(kept.run(f"print({LIVE})").stdout))}


def docker_exec(image: str) -> Iterator[Jobs]:
    import docker

    client = docker.from_env()
    container = client.containers.run(
        image, ["infinity"], entrypoint="sleep", detach=True, network_mode="none", init=True
    )
    try:
        yield fresh(lambda code: container.exec_run(["python3", "-I", "-c", code]).output.decode())
    finally:
        container.remove(force=True)


def docker_run(image: str) -> Iterator[Jobs]:
    if shutil.which("docker") is None:
        raise RuntimeError("docker is not installed")
    isolated = ["--network", "none", "--entrypoint", "python3", image, "-I", "-c"]
    daemon = {name: value for name, value in os.environ.items() if name.startswith("DOCKER_")}
    yield fresh(command([str(shutil.which("docker")), "run", "--rm", *isolated], **daemon))


def way(name: str, image: str) -> Iterator[Jobs]:
    made: dict[str, Callable[[], Iterator[Jobs]]] = {
        "palestra": lambda: palestra(None),
        "palestra, on demand": lambda: palestra(0),
        "floor: fork and exit": floor,
        "floor: eval in process": in_process,
        "python -I": lambda: iter([fresh(command([sys.executable, "-I", "-c"]))]),
        "bubblewrap": bubblewrap,
        "GEM": gem,
        "smolagents": smolagents,
        "jupyter": jupyter,
        "llm-sandbox": lambda: llm_sandbox(image),
        "docker exec": lambda: docker_exec(image),
        "docker run": lambda: docker_run(image),
    }
    return made[name]()


def timed(job: Job, rest_s: float) -> float:
    time.sleep(rest_s)
    start = time.perf_counter()
    job()
    return time.perf_counter() - start


def main() -> None:
    jobs_of = contextmanager(way)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # peers that print must not be taken for answers
    with jobs_of(sys.argv[1], sys.argv[2]) as jobs:
        for job in jobs.values():  # warm-up, and whether it works at all
            job()
        print(json.dumps({"jobs": list(jobs)}), file=answers)
        for line in sys.stdin:
            job, count, rest_s = line.split()
            seconds = [timed(jobs[job], float(rest_s)) for _ in range(int(count))]
            print(json.dumps({"seconds": seconds}), file=answers)


if __name__ == "__main__":
    main()
