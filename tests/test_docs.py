"""The documentation holds: its Python runs, its links lead somewhere, its commands exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from palestra import make
from palestra.cli.dispatch import COMMANDS
from palestra.envs.configfile import load_toml
from palestra.envs.registration import list_environments
from palestra.envs.suites import load_suite
from palestra.trainers.config import TrainConfig

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / n for n in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
CARDS = sorted((ROOT / "envs").glob("*/README.md"))
PAGES += [*sorted((ROOT / "docs").glob("*.md")), *CARDS, ROOT / "sandbox" / "README.md"]

# ```python blocks run; what is only to be read is fenced as ```py or ```text.
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [code for name, code in found if name == language]


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "python")], ids=page_id)
def test_python_in_the_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All blocks of a page in order, in one namespace, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {"__name__": f"docs.{page.stem}"}
    for number, code in enumerate(blocks(page, "python"), 1):
        exec(compile(code, f"{page.name}, block {number}", "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    targets = [t for t in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in t]
    missing = [t for t in targets if not (page.parent / t.partition("#")[0]).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_in_the_page_exist(page: Path) -> None:
    lines = [line for code in blocks(page, "sh") for line in code.splitlines()]
    calls = [shlex.split(line, comments=True) for line in lines]
    for words in (w for w in calls if w):
        program = words[0]
        if program == "palestra":
            assert words[1].startswith("--") or words[1] in COMMANDS, words
        elif "/" in program:
            assert (ROOT / program).is_file(), words


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p, "toml")], ids=page_id)
def test_recipes_in_the_page_load(page: Path, tmp_path: Path) -> None:
    for code in blocks(page, "toml"):
        (tmp_path / "recipe.toml").write_text(code)
        if "[environments." in code:
            load_suite(tmp_path / "recipe.toml")
            continue
        env = load_toml(TrainConfig, tmp_path / "recipe.toml").env
        if not str(env.options.get("tasks")).endswith(".jsonl"):  # a file of the reader's
            for options in (env.options, env.heldout_options()):
                make(env.id, **options).close()


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.toml")), ids=page_id)
def test_recipes_load(recipe: Path) -> None:
    load_toml(TrainConfig, recipe)


def test_every_environment_has_a_card() -> None:
    """Beside its code, under its id, and linked from the page about environments.

    Those of other libraries share one page.
    """
    interop = (ROOT / "docs" / "interop.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "environments.md").read_text(encoding="utf-8")
    own = [spec for spec in list_environments() if spec.id.startswith("palestra/")]
    assert len(own) >= 6
    for spec in own:
        if ".interop." in str(spec.entry_point):
            assert f"`{spec.id}`" in interop
            continue
        module = str(spec.entry_point).partition(":")[0].removeprefix("palestra.")
        card = ROOT / Path(*module.split(".")) / "README.md"
        assert card.read_text(encoding="utf-8").startswith(f"# {spec.id}\n")
        assert f"](../{card.relative_to(ROOT)})" in page


def test_there_is_python_to_run() -> None:
    assert blocks(ROOT / "README.md", "python")
