"""The run folder: nothing lost, nothing overwritten, torn lines repaired."""

import gzip
import json
import math
import threading
from dataclasses import dataclass

import numpy as np
import pytest

from palestra.agents.runlog import (
    RunLog,
    environment_report,
    new_folder,
    plain,
    read_groups,
    read_metrics,
    trajectory_files,
)
from palestra.envs.types import (
    Group,
    Invalid,
    Message,
    StopReason,
    Task,
    ToolCall,
    ToolResult,
    ToolStats,
    ToolStatus,
    Trajectory,
    Turn,
)


def make_group(task_id="t1", answer="4"):
    task = Task(task_id, (Message("user", "2 + 2? \u2028 </script> \x00 é"),), "4", difficulty=0.5)
    call = ToolCall("python", '{"code": "2+2"}', "c1")
    result = ToolResult(call, "4\n", ToolStatus.OK, 0.01)
    turns = (
        Turn(task.prompt, Message("assistant", "let me see", (call,)), (result,), num_sampled=2),
        Turn((Message("tool", "4\n", tool_call_id="c1"),), Message("assistant", answer)),
    )
    shared = {
        "task_id": task_id,
        "env_id": "palestra/Test-v0",
        "token_ids": (1, 2, 3, 4),
        "mask": (False, True, True, False),
        "logprobs": (0.0, -0.1, -1e-9, 0.0),
        "prompt_length": 1,
        "turns": turns,
        "tools": ToolStats.of([result]),
    }
    good = Trajectory(**shared, stop_reason=StopReason.COMPLETED, reward=1.0, correct=True)
    bad = Trajectory(
        **shared, stop_reason=StopReason.ENV_ERROR, reward=None, failure=Invalid("sandbox", "died")
    )
    return Group(task, (good, bad))


def test_create_lays_out_the_folder(tmp_path):
    folder = tmp_path / "runs" / "a"
    with RunLog.create(folder, {"lr": 1e-6, "seed": 7, "model": {"api_key": "sk-1"}}) as log:
        assert log.config["lr"] == 1e-6
        assert log.checkpoints.is_dir()
    environment = json.loads((folder / "environment.json").read_text())
    assert environment["seed"] == 7
    assert environment["packages"]["numpy"] == np.__version__
    assert {"python", "git", "machine"} <= environment.keys()
    assert "sk-1" not in (folder / "config.json").read_text()
    assert read_metrics(folder) == []


def test_create_refuses_a_folder_in_use(tmp_path):
    RunLog.create(tmp_path / "a", {}).close()
    with pytest.raises(FileExistsError, match=r"not empty.*resume"):
        RunLog.create(tmp_path / "a", {})
    (tmp_path / "empty").mkdir()
    RunLog.create(tmp_path / "empty", {}).close()


def test_resume_needs_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"holds no run.*config\.json"):
        RunLog.resume(tmp_path)


def test_new_folders_never_collide(tmp_path):
    folders = [new_folder(tmp_path / "runs", "palestra/Math v0") for _ in range(4)]
    assert len(set(folders)) == 4
    assert all(f.is_dir() and f.name.startswith("palestra-Math-v0-") for f in folders)


def test_metrics_round_trip_with_nan_and_array_scalars(tmp_path):
    with RunLog.create(tmp_path / "a", {}) as log:
        log.log(0, {"loss": math.nan, "r": np.float32(0.5), "n": np.int64(3), "x": -math.inf})
        text = (tmp_path / "a" / "metrics.jsonl").read_text()
    assert "NaN" not in text and "Infinity" not in text
    assert read_metrics(tmp_path / "a") == [{"step": 0, "loss": None, "r": 0.5, "n": 3, "x": None}]


def test_metrics_of_another_step_are_refused(tmp_path):
    with (
        RunLog.create(tmp_path / "a", {}) as log,
        pytest.raises(ValueError, match="step 3 carry another step: 4"),
    ):
        log.log(3, {"step": 4})


def test_each_line_is_on_disk_at_once(tmp_path):
    log = RunLog.create(tmp_path / "a", {})
    for step in range(3):
        log.log(step, {"loss": step})
        assert len(read_metrics(tmp_path / "a")) == step + 1
    log.close()
    log.close()


@pytest.mark.parametrize(
    "torn", [b'{"step": 2, "lo', b'{"step": 2, "loss": 1}', b"\0" * 40 + b"\n"]
)
def test_a_torn_last_line_is_ignored_then_cut_off(tmp_path, torn):
    with RunLog.create(tmp_path / "a", {}) as log:
        log.log(0, {"loss": 0.0})
        log.log(1, {"loss": 1.0})
    path = tmp_path / "a" / "metrics.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + torn)
    assert [r["step"] for r in read_metrics(tmp_path / "a")] == [0, 1]
    with RunLog.resume(tmp_path / "a") as log:
        assert path.read_bytes() == whole
        log.log(2, {"loss": 2.0})
    assert [r["loss"] for r in read_metrics(tmp_path / "a")] == [0.0, 1.0, 2.0]


def test_damage_inside_the_file_is_an_error(tmp_path):
    with RunLog.create(tmp_path / "a", {}) as log:
        log.log(0, {})
    path = tmp_path / "a" / "metrics.jsonl"
    path.write_bytes(b"{oops\n" + path.read_bytes())
    with pytest.raises(ValueError, match="line 1, is not JSON"):
        read_metrics(tmp_path / "a")


def test_after_a_resume_from_an_earlier_step_the_last_record_counts(tmp_path):
    with RunLog.create(tmp_path / "a", {}) as log:
        for step in range(4):
            log.log(step, {"run": 1})
    with RunLog.resume(tmp_path / "a") as log:
        for step in (2, 3):
            log.log(step, {"run": 2})
    assert [(r["step"], r["run"]) for r in read_metrics(tmp_path / "a")] == [
        (0, 1),
        (1, 1),
        (2, 2),
        (3, 2),
    ]
    assert len((tmp_path / "a" / "metrics.jsonl").read_text().splitlines()) == 6


def test_groups_round_trip(tmp_path):
    groups = [make_group("t1"), make_group("t2", "five")]
    with RunLog.create(tmp_path / "a", {}) as log:
        path = log.write_groups(12, groups)
    assert path.name == "step-000012.jsonl.gz"
    assert list(read_groups(path)) == groups
    assert len(gzip.decompress(path.read_bytes()).splitlines()) == 2


def test_groups_written_again_keep_the_older_file(tmp_path):
    with RunLog.create(tmp_path / "a", {}) as log:
        log.write_groups(3, [make_group("old")])
        log.write_groups(10, [make_group()])
        new = log.write_groups(3, [make_group("new")])
    files = trajectory_files(tmp_path / "a")
    assert list(files) == [3, 10]
    assert next(read_groups(new)).task.id == "new"
    old = new.with_name("step-000003.superseded-1.jsonl.gz")
    assert next(read_groups(old)).task.id == "old"


def test_a_failed_write_leaves_no_half_file(tmp_path):
    def groups():
        yield make_group()
        raise RuntimeError("the generator died")

    with RunLog.create(tmp_path / "a", {}) as log, pytest.raises(RuntimeError):
        log.write_groups(1, groups())
    assert trajectory_files(tmp_path / "a") == {}


def test_a_changed_environment_is_recorded_beside_the_first(tmp_path):
    folder = tmp_path / "a"
    RunLog.create(folder, {"seed": 3}).close()
    RunLog.resume(folder).close()
    assert not (folder / "environment-2.json").exists()
    first = folder / "environment.json"
    first.write_text(json.dumps(json.loads(first.read_text()) | {"python": "2.7"}))
    before = first.read_text()
    RunLog.resume(folder).close()
    assert json.loads((folder / "environment-2.json").read_text())["seed"] == 3
    assert first.read_text() == before
    RunLog.resume(folder).close()
    assert not (folder / "environment-3.json").exists()


def test_threads_do_not_mix_their_lines(tmp_path):
    with RunLog.create(tmp_path / "a", {}) as log:

        def write(base):
            for step in range(base, base + 20):
                log.log(step, {"text": "x" * 2000})

        threads = [threading.Thread(target=write, args=(100 * i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(read_metrics(tmp_path / "a")) == 80


def test_plain_takes_what_configs_hold_and_refuses_the_rest(tmp_path):
    @dataclass
    class Inner:
        rate: float = math.inf

    value = {"path": tmp_path, "inner": Inner(), "shape": (1, 2), "array": np.zeros(2)}
    assert plain(value) == {
        "path": str(tmp_path),
        "inner": {"rate": None},
        "shape": [1, 2],
        "array": [0.0, 0.0],
    }
    with pytest.raises(TypeError, match="object has no JSON form"):
        plain(object())


def test_environment_report_names_no_host(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    report = environment_report(seed=1)
    assert report["git"] is None
    assert json.dumps(report)
    assert "node" not in report["machine"]
