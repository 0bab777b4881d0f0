"""The documentation holds: its Python runs, its links lead somewhere, its commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from palestra import make
from palestra.cli.config import load_toml
from palestra.cli.dispatch import COMMANDS
from palestra.trainers.config import TrainConfig

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / n for n in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += [*sorted((ROOT / "docs").glob("*.md")), ROOT / "sandbox" / "README.md"]

# ```python blocks run; what is only to be read is fenced as ```py or ```text.
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def blocks(page: Path, language: str) -> list[str]:
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [code for name, code in found if name == language]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=lambda p: p.name)
def test_python_in_the_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All blocks of a page in order, in one namespace, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": f"docs.{page.stem}"}
    for number, code in enumerate(blocks(page, "python"), 1):
        exec(compile(code, f"{page.name}, block {number}", "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [t for t in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in t]
    missing = [t for t in targets if not (page.parent / t.partition("#")[0]).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_in_the_page_exist(page: Path) -> None:
    lines = [line for code in blocks(page, "sh") for line in code.splitlines()]
    calls = [shlex.split(line, comments=True) for line in lines]
    for words in (w for w in calls if w):
        program = words[0]
        if program == "palestra":
            assert words[1].startswith("--") or words[1] in COMMANDS, words
        elif "/" in program:
            assert (ROOT / program).is_file(), words


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "toml")], ids=lambda p: p.name)
def test_recipes_in_the_page_load(page: Path, tmp_path: Path) -> None:
    for code in blocks(page, "toml"):
        (tmp_path / "recipe.toml").write_text(code)
        env = load_toml(TrainConfig, tmp_path / "recipe.toml").env
        if not str(env.options.get("tasks")).endswith(".jsonl"):  # a file of the reader's
            for options in (env.options, env.options | env.heldout):
                make(env.id, **options).close()


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda p: p.name)
def test_recipes_load(recipe: Path) -> None:
    load_toml(TrainConfig, recipe)


def test_there_is_python_to_run() -> None:
    assert blocks(ROOT / "README.md", "python")
