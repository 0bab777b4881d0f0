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
    assert "wheel" not in capsys.readouterr().err
    assert "ARG PALESTRA=palestra[serve]\n" in (folder / "Dockerfile").read_text()
    written = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    assert written == ["Dockerfile", "openenv.yaml", "validation/runtime.json"]
    assert '"--env.protocol", "\\"hermes\\""' in (folder / "Dockerfile").read_text()
    assert json.loads((folder / "openenv.yaml").read_text())["name"] == "palestra-mathcode-v0"
    assert cli.main(asked) == 2
    assert "not empty" in capsys.readouterr().err


def test_a_package_of_an_environment_from_elsewhere_says_how_it_gets_into_the_image(
    tmp_path, monkeypatch, capsys
):
    """First of a loose module, then of one that was installed from a folder."""
    made = tmp_path / "made" / "src"
    assert cli.main(["new", "far_away", "--folder", str(made.parent)]) == 0
    monkeypatch.syspath_prepend(str(made))
    asked = ["serve", "far_away:far_away/FarAway-v0", "--package"]
    assert cli.main([*asked, str(tmp_path / "loose")]) == 0
    assert "far_away belongs to no installed package" in capsys.readouterr().err

    info = made / "far_away-0.1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: far_away\nVersion: 0.1.0\n")
    (info / "entry_points.txt").write_text("[palestra.envs]\nfar_away = far_away\n")
    origin = {"url": made.parent.as_uri(), "dir_info": {"editable": True}}
    (info / "direct_url.json").write_text(json.dumps(origin))
    assert cli.main([*asked, str(tmp_path / "package")]) == 0
    assert f"pip wheel --no-deps --wheel-dir wheels {made.parent}" in capsys.readouterr().err
    text = (tmp_path / "package" / "Dockerfile").read_text()
    assert 'RUN pip install --no-cache-dir --find-links /wheels "far_away==0.1.0"' in text
    (info / "direct_url.json").unlink()  # as from an index
    assert cli.main([*asked, str(tmp_path / "indexed")]) == 0
    assert capsys.readouterr().err == ""
    text = (tmp_path / "indexed" / "Dockerfile").read_text()
    assert 'RUN pip install --no-cache-dir "far_away==0.1.0"' in text


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
