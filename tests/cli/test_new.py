"""`palestra new`. That what it makes can be installed and used: tests/test_packaging.py."""

import ast
import re
import tomllib
from collections import Counter

import pytest

from palestra.cli.dispatch import main
from palestra.envs.tasks import load_tasks


def test_it_makes_a_small_package(tmp_path, capsys):
    folder = tmp_path / "words"
    assert main(["new", "word_games", "--folder", str(folder)]) == 0
    assert "word_games/WordGames-v0" in capsys.readouterr().out
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["palestra.envs"] == {"word_games": "word_games"}
    source = (folder / "src" / "word_games" / "__init__.py").read_text()
    assert len(source.splitlines()) <= 40
    names = [n.name for n in ast.parse(source).body if isinstance(n, ast.ClassDef)]
    assert names == ["WordGames"]
    made = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert made == {
        *("pyproject.toml", "README.md", "tests/test_environment.py"),
        *("src/word_games/__init__.py", "src/word_games/tasks.jsonl"),
    }
    assert not any("$" in (folder / name).read_text() for name in made)


@pytest.mark.parametrize("name", ["My-Env", "1env", "class", "a.b"])
def test_names_that_cannot_be_imported_are_refused(name, tmp_path, capsys):
    assert main(["new", name, "--folder", str(tmp_path / "x")]) == 2
    assert "no name for a package" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_a_constant_answer_earns_a_quarter_in_each_split(tmp_path):
    assert main(["new", "my_env", "--folder", str(tmp_path / "my_env")]) == 0
    file = str(tmp_path / "my_env" / "src" / "my_env" / "tasks.jsonl")
    for split, each in (("train", 9), ("heldout", 3)):
        tasks = list(load_tasks(file, split=split, holdout=0.25))
        assert Counter(task.reference for task in tasks) == dict.fromkeys("1234", each)
        for task in tasks:
            letter, word = re.findall(r"'(\w+)'", task.question)
            assert word.count(letter) == int(task.reference)


@pytest.mark.parametrize("name", ["random", "palestra", "numpy"])
def test_names_that_are_taken_are_refused(name, tmp_path, capsys):
    assert main(["new", name, "--folder", str(tmp_path / "x")]) == 2
    assert "a module there is" in capsys.readouterr().err


def test_nothing_is_overwritten(tmp_path, capsys):
    assert main(["new", "my_env", "--folder", str(tmp_path)]) == 2
    assert "exists already" in capsys.readouterr().err
