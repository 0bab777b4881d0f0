"""`palestra new NAME`: a package of one's own with a working environment in it."""

from __future__ import annotations

import keyword
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Annotated

from tyro.conf import Positional

from .errors import UsageError
from .parsing import SAYS_ITS_DEFAULT, parse

# template -> file in the new folder; $package stands for the name
LAYOUT = {
    "pyproject.toml.tmpl": "pyproject.toml",
    "README.md": "README.md",
    "environment.py.tmpl": "src/$package/__init__.py",
    "tasks.jsonl": "src/$package/tasks.jsonl",
    "test_environment.py.tmpl": "tests/test_environment.py",
}


@dataclass(frozen=True)
class Options:
    """Make a package with an environment that works: code, tasks, a card and a test.

    Install it (pip install -e FOLDER) and Palestra lists, checks, plays, evaluates and trains
    it like its own.
    """

    name: Positional[str]
    """Name of the package, such as my_env. The environment is then my_env/MyEnv-v0."""
    folder: Annotated[str, SAYS_ITS_DEFAULT] = ""
    """Where it is made: a folder that does not exist yet (default: the name)."""


EXAMPLES = ("my_env", "word_games --folder ~/code/word-games")


def main(argv: Sequence[str]) -> int:
    options = parse(Options, argv, command="new", examples=EXAMPLES)
    folder = Path(options.folder or options.name).expanduser()
    id = create(options.name, folder)
    made = "\n".join(f"  {path}" for path in sorted(p for p in folder.rglob("*") if p.is_file()))
    print(f"made {id} in {folder}:\n{made}\n")
    print(f"next:\n  pip install -e {folder}\n  palestra check {id}\n  palestra play {id}")
    return 0


def create(package: str, folder: Path) -> str:
    """Write the package; the id of its environment.

    Raises:
        UsageError: the name is no package name, or that of another, or the folder exists.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", package) or keyword.iskeyword(package):
        raise UsageError(
            f"{package!r} is no name for a package: expected lower-case letters, digits and _, "
            f"such as my_env"
        )
    if _is_taken(package):
        raise UsageError(f"{package!r} is the name of a module there is: choose another")
    if folder.exists():
        raise UsageError(f"{folder} exists already: give another --folder")
    name = "".join(part.capitalize() for part in package.split("_"))
    values = {
        "package": package,
        "name": name,
        "title": package.replace("_", " ").capitalize(),
        "id": f"{package}/{name}-v0",
    }
    templates = files(__package__) / "templates"
    for template, target in LAYOUT.items():
        path = folder / Template(target).substitute(values)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = (templates / template).read_text(encoding="utf-8")
        path.write_text(Template(text).safe_substitute(values), encoding="utf-8")
    return values["id"]


def _is_taken(package: str) -> bool:
    """Whether `import package` means something here already; a mere folder does not count."""
    if package in sys.stdlib_module_names:
        return True
    found = find_spec(package)
    return found is not None and found.origin is not None
