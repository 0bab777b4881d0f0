"""Which tasks a step plays, with and without a curriculum, through a stop and a resume."""

import json
import shutil

import letters
import pytest
from episodes import trajectory

from palestra.agents.runlog import read_groups, read_json, read_metrics, trajectory_files
from palestra.envs.registration import register
from palestra.envs.tasks import LevelledTasks, TaskList
from palestra.envs.types import Group, Message, Task
from palestra.trainers.config import EnvConfig
from palestra.trainers.draws import Curriculum, Epochs, task_stream
from palestra.trainers.online import train


def ladder(levels=4, size=5, split="train"):
    def level(number):
        prompts = [(Message("user", f"{split} {number}.{i}"),) for i in range(size)]
        tasks = [Task(f"{split}-{number}-{i}", p, split=split) for i, p in enumerate(prompts)]
        return TaskList(f"level {number}", split, tasks)

    return LevelledTasks([level(number) for number in range(levels)])


class Ladder(letters.Letters):
    """`Letters` with levels. Even noise earns enough here to climb, by the thresholds below."""

    def __init__(self, split="train"):
        super().__init__(split)
        self.tasks = ladder(split=split)


register("tests/Ladder-v0", Ladder)
CLIMB = {"high": 0.3, "low": 0.0, "last_k": 12}


def test_epochs_play_every_task_once_in_new_orders():
    stream = Epochs(list(range(7)), seed=3)
    first, second = stream.draw(7), stream.draw(7)
    assert sorted(first) == sorted(second) == list(range(7)) and first != second
    again = Epochs(list(range(7)), seed=3)
    again.load_state_dict(json.loads(json.dumps({"cursor": 5})))
    assert again.draw(9) == (first + second)[5:]


def test_levels_take_turns_and_say_which_they_are():
    tasks = ladder(3, 4)
    assert [task.difficulty for task in tasks] == [0, 1, 2] * 4
    assert len({task.id for task in tasks}) == 12
    assert tasks.at(1, 6) == tasks.at(1, 2)
    with pytest.raises(ValueError, match="tasks in each"):
        LevelledTasks([TaskList("none", "train", [])])


def test_a_curriculum_needs_levels():
    with pytest.raises(ValueError, match="needs tasks with levels"):
        task_stream([1, 2, 3], 0, "bands", {})
    with pytest.raises(ValueError, match="did you mean 'bands'"):
        task_stream(ladder(), 0, "band", {})
    with pytest.raises(ValueError, match="cannot be made"):
        task_stream(ladder(), 0, "bands", {"hihg": 1})
    assert isinstance(task_stream(ladder(), 0, "replay", {}), Curriculum)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return letters.save_model(tmp_path_factory.mktemp("run") / "model")


def config(model, **changes):
    return letters.config(
        model, env=EnvConfig("tests/Ladder-v0"), curriculum="bands", curriculum_options=CLIMB,
        **changes,
    )  # fmt: skip


def test_a_run_climbs_and_goes_on_where_it_stopped(model):
    """Six steps at once, or two and then four more: the same levels, tasks and rewards."""
    whole, split = model.parent / "whole", model.parent / "split"
    train(config(model, steps=6), whole)
    train(config(model, steps=2), split)
    train(config(model, steps=6), split, resume=True)
    keys = ("curriculum/difficulty", "curriculum/played", "curriculum/score", "reward/mean")
    seen = [[{k: r[k] for k in keys} for r in read_metrics(f)[1:]] for f in (whole, split)]
    assert seen[0] == seen[1]
    assert seen[0][-1]["curriculum/difficulty"] >= 2
    for step, path in trajectory_files(whole).items():
        drawn = [g.task for g in read_groups(path)]
        assert drawn == [g.task for g in read_groups(trajectory_files(split)[step])]
    shutil.rmtree(split)


def test_evaluation_does_not_go_through_the_curriculum(model):
    """The same held-out tasks, all levels alike, before and after the climb."""
    folder = model.parent / "apart"
    train(config(model, steps=4), folder)
    found = []
    for step in (0, 4):
        result = read_json(folder / "evaluations" / f"step-{step:06}.json")
        found.append([row["task_id"] for row in result["rows"]])
    assert found[0] == found[1] == [f"heldout-{level}-0" for level in range(4)]


def test_invalid_episodes_are_no_feedback():
    stream = task_stream(ladder(), 0, "bands", {"last_k": 1})
    (task,) = stream.draw(1)
    lost, won = (trajectory([1, 2], [0, 1], reward) for reward in (None, 3.0))
    assert stream.hear([Group(task, (lost, lost))]) == {"curriculum/difficulty": 0.0}
    heard = stream.hear([Group(task, (lost, won))])
    assert heard["curriculum/score"] == 1.0 and heard["curriculum/difficulty"] == 1.0
