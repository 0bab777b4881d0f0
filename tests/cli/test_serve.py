"""`palestra serve`: a process that serves until it is told to stop, and packages."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.request

import pytest

from palestra import cli

ID = "palestra/MathCode-v0"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_told_to_stop(number):
    command = [sys.executable, "-m", "palestra", "serve", ID, "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith(f"{ID} is at http://127.0.0.1:")
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(line.split()[-1] + "/metadata", timeout=30) as response:
            assert json.load(response)["name"] == ID
        process.send_signal(number)
        assert process.wait(30) == 0


def test_a_package(tmp_path, capsys):
    folder = tmp_path / "package"
    asked = ["serve", ID, "--env.protocol", "hermes", "--package", str(folder)]
    assert cli.main(asked) == 0
    written = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert written == ["Dockerfile", "openenv.yaml", "validation/runtime.json"]
    assert '"--env.protocol", "\\"hermes\\""' in (folder / "Dockerfile").read_text()
    assert json.loads((folder / "openenv.yaml").read_text())["name"] == "palestra-mathcode-v0"
    assert cli.main(asked) == 1
    assert "not empty" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["palestra/MathCod-v0"], "MathCode"),
        ([ID, "--env.protocl", "hermes"], "protocol"),
        ([ID, "--max-sessions", "0"], "max_sessions must be positive"),
        (["palestra/OpenEnv-v0"], "url"),
        (["palestra/Gymnasium-v0", "--package", "x"], "finite"),
        (["CartPole-v1"], "no chat environment"),
    ],
)
def test_mistakes(arguments, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["serve", *arguments]) in (1, 2)
    assert says in capsys.readouterr().err


def test_its_help_has_examples(capsys):
    with pytest.raises(SystemExit):
        cli.main(["serve", "--help"])
    assert "palestra serve palestra/MathCode-v0" in capsys.readouterr().out
