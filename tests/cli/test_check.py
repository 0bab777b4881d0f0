"""`palestra check`, as it is called."""

import json
from pathlib import Path

import pytest

from palestra.cli.dispatch import main

FAULTY = Path(__file__).parents[1] / "envs" / "faulty.py"


def test_an_id_passes(capsys):
    only = ["--only", "oracle", "seed", "splits"]
    assert main(["check", "palestra/MathCode-v0", "--env.protocol", "hermes", *only]) == 0
    out = capsys.readouterr().out
    assert "palestra/MathCode-v0" in out and "3 pass, 0 fail, 0 skip" in out


def test_a_class_in_a_file_fails_with_the_reason(capsys):
    assert main(["check", f"{FAULTY}:PaysForFormat", "--tasks", "5", "--only", "floor"]) == 1
    out = capsys.readouterr().out
    assert "fail  floor" in out and "earned 0.2 on average" in out


def test_json(capsys):
    assert main(["check", f"{FAULTY}:Leaky", "--only", "leak", "ids", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["passed"] is False
    (found,) = told["environments"].values()
    assert [f["status"] for f in found] == ["fail", "pass"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["palestra/MathCod-v0"], "MathCode-v0"),
        (["palestra/MathCode-v0", "--only", "orakle"], "oracle"),
        (["nowhere.py"], "no file"),
        ([f"{FAULTY}:Nothing"], "no environment class"),
        (["palestra/MathCode-v0", "--env.protocl", "hermes"], "protocol"),
    ],
)
def test_mistakes_are_named(arguments, message, capsys):
    assert main(["check", *arguments]) == 2
    assert message in capsys.readouterr().err
