"""`palestra check ID|FILE`: an audit of environments, with no model."""

from __future__ import annotations

import importlib.util
import inspect
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tyro.conf import Positional

from .environment import make_environment, required
from .errors import UsageError, nearest
from .parsing import parse

if TYPE_CHECKING:
    from ..envs.checker import Finding
    from ..envs.core import ChatEnv

Make = Callable[..., "ChatEnv"]


@dataclass(frozen=True)
class Options:
    """Audit an environment: what it pays for what, seeds, snapshots, time limits, tasks.

    No model is needed: scripted policies play. The exit code is 1 when a check fails.
    """

    what: Positional[str]
    """Id of an environment, or a Python file (FILE.py or FILE.py:Class), or "all"."""
    env: dict[str, Any] = field(default_factory=dict)
    """Settings of the environment, as --env.KEY VALUE."""
    only: tuple[str, ...] = ()
    """Run these checks only."""
    tasks: int = 20
    """Tasks that each check looks at."""
    episodes: int = 100
    """Episodes that are interleaved."""
    json: bool = False
    """Print a JSON object."""


EXAMPLES = (
    "palestra/MathCode-v0",
    "palestra/MathCode-v0 --env.protocol hermes --only oracle floor",
    "my_environment.py",
    "all --json",
)


def main(argv: Sequence[str]) -> int:
    options = parse(Options, argv, command="check", examples=EXAMPLES)
    from ..envs.checker import CHECKS, passed

    for name in options.only:
        if name not in CHECKS:
            hint = nearest(name, CHECKS) or f"; there are {', '.join(CHECKS)}"
            raise UsageError(f"no check {name!r}{hint}")
    results: dict[str, list[Finding]] = {}
    for name, make in _subjects(options.what, options.env).items():
        results[name] = _audit(name, make, options)
    good = all(map(passed, results.values()))
    if options.json:
        told = {name: [asdict(f) for f in findings] for name, findings in results.items()}
        print(json.dumps({"passed": good, "environments": told}, indent=2))
    return 0 if good else 1


def _audit(name: str, make: Make, options: Options) -> list[Finding]:
    from ..envs.checker import Subject, audit

    subject = Subject(make, tasks=options.tasks, episodes=options.episodes)
    findings = []
    for finding in audit(subject, options.only):
        findings.append(finding)
        if not options.json:
            if len(findings) == 1:
                print(name)
            print(_line(finding), flush=True)
    if not options.json:
        counts = [f"{sum(f.status == s for f in findings)} {s}" for s in ("pass", "fail", "skip")]
        print("  " + ", ".join(counts))
    return findings


def _line(finding: Finding) -> str:
    text = f"  {finding.status:<4}  {finding.check:<12}  {finding.detail}"
    return f"{text}\n{'':20}({finding.about})" if finding.status == "fail" else text


def _subjects(what: str, settings: dict[str, Any]) -> dict[str, Make]:
    """What to audit, by the name it is shown with."""
    path, _, wanted = what.partition(".py:")
    if what.endswith(".py") or wanted:
        file = Path(path if what.endswith(".py") else path + ".py")
        return {
            f"{file}:{name}": _with(cls, settings) for name, cls in _classes(file, wanted).items()
        }
    if what == "all":
        from ..envs.registration import list_environments, missing_extra

        makes = []
        for spec in list_environments():
            needed = ", ".join(f"--env.{n}" for n in required(spec) if n not in settings)
            if extra := missing_extra(spec.id):
                needed = f"pip install 'palestra[{extra}]'"
            if needed:
                print(f"{spec.id} is left out: it needs {needed}", file=sys.stderr)
            else:
                makes.append(spec.id)
        return {id: _by_id(id, settings) for id in makes}
    return {what: _by_id(what, settings)}


def _by_id(id: str, settings: dict[str, Any]) -> Make:
    from ..envs.core import ChatEnv

    def make(**changes: Any) -> ChatEnv:
        return cast("ChatEnv", make_environment(id, settings | changes).unwrapped)

    env = make()
    env.close()
    if not isinstance(env, ChatEnv):
        raise UsageError(f"{id} is no chat environment (a ChatEnv): nothing to audit")
    return make


def _with(cls: Any, settings: dict[str, Any]) -> Make:
    return lambda **changes: cls(**(settings | changes))


def _classes(file: Path, wanted: str) -> dict[str, Any]:
    """The environment classes that a file defines, or the one that is asked for."""
    from ..envs.core import ChatEnv

    if not file.is_file():
        raise UsageError(f"no file {file}")
    module = sys.modules.get(file.stem)
    if module is None or Path(module.__file__ or "").resolve() != file.resolve():
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        sys.modules[file.stem] = module  # so that what it defines can be pickled
        spec.loader.exec_module(module)
    found = {
        name: cls
        for name, cls in vars(module).items()
        if inspect.isclass(cls) and issubclass(cls, ChatEnv) and cls.__module__ == file.stem
    }
    if not wanted and found:
        return found
    if wanted not in found:
        listed = ", ".join(found) or "none"
        raise UsageError(f"{file} defines no environment class {wanted!r}: it has {listed}")
    return {wanted: found[wanted]}
