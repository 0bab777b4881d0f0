"""`palestra/Reasoning-v0` with the families' own scorers."""

import warnings

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

import palestra
from palestra.envs.reasoning import reasoning_tasks

pytest.importorskip("reasoning_gym")
from palestra.envs.tasks.reasoning import families, level_options, num_levels


def make(**options):
    return palestra.make("palestra/Reasoning-v0", **options).unwrapped


def test_it_is_a_gymnasium_environment():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(make(families=["chain_sum", "gcd"], level=0))
    both = gymnasium.vector.SyncVectorEnv([make, make])
    both.reset(seed=1)
    both.close()


def test_the_reward_is_the_family_scorers():
    env = make(families="countdown", split="heldout")
    env.reset(seed=3)
    numbers, target = (env.task.metadata["entry"]["metadata"][k] for k in ("numbers", "target"))
    _, reward, ended, _, info = env.step(f"So <answer>{env.task.reference}</answer>")
    assert (reward, ended, info["correct"]) == (1.0, True, True), (numbers, target)
    env.reset(seed=3)
    _, reward, _, _, info = env.step("<answer>1 + 1</answer>")
    assert reward < 0.1 and info["correct"] is False
    env.reset(seed=3)
    assert env.step(str(env.task.reference))[1] == 0  # not in tags


PAY_FOR_NOTHING = ("game_of_life", "rearc", "arc_1d", "letter_jumble", "sentence_reordering")


@pytest.mark.parametrize("family", PAY_FOR_NOTHING)
@pytest.mark.parametrize("answer", ["", "<answer></answer>", "<answer>   </answer>"])
def test_an_empty_answer_earns_nothing(family, answer):
    env = make(families=family)
    env.reset(seed=0)
    assert env.step(answer)[1] == 0.0


def test_every_family_has_every_level_it_promises():
    assert len(families()) == 105
    for family in families():
        for level in range(num_levels(family)):
            assert isinstance(level_options(family, level), dict)
    with pytest.raises(ValueError, match="levels 0 to 10, got 11"):
        level_options("chain_sum", 11)


def test_levels_change_the_tasks_and_the_scorer_knows_them():
    lengths = []
    for level in (0, 4):
        env = make(families="chain_sum", level=level)
        env.reset(seed=1)
        lengths.append(len(env.task.question))
        assert env.step(f"<answer>{env.task.reference}</answer>")[1] == 1.0
    assert lengths[1] > lengths[0] + 10


def test_families_are_mixed_by_weight_and_mistakes_are_named():
    tasks = reasoning_tasks({"gcd": 3, "chain_sum": 1}, level=9, split="heldout")
    found = [tasks[i].metadata["family"] for i in range(40)]
    assert found.count("gcd") == 30
    with pytest.raises(ValueError, match="chain_sum"):
        reasoning_tasks("chain_sun")
    with pytest.raises(ValueError, match="levels 0 to"):
        reasoning_tasks("gcd", level=-1)
    with pytest.raises(ValueError, match="not among"):
        reasoning_tasks("gcd", options={"lcm": {}})
