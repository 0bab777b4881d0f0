"""PRIME's implicit rewards and POLAR's comparisons: identities, interfaces, small learners."""

import asyncio
import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from palestra.agents.engines.byte_tokenizer import ByteTokenizer
from palestra.agents.engines.scripted import ScriptedEngine
from palestra.envs.rewards.implicit import (
    implicit_reward,
    implicit_rewards,
    outcome_loss,
    prime_advantages,
    token_rewards,
)
from palestra.envs.rewards.policy_discriminative import (
    PolarFormat,
    PolicyDiscriminative,
    bradley_terry_loss,
    policy_pairs,
)
from palestra.envs.rewards.protocol import JudgeError
from palestra.envs.types import Group, Invalid, Message, StopReason, Task, Trajectory, Turn

RNG = np.random.default_rng(0)
TASK = Task("t", (Message("user", "The capital of China?"),), "Beijing.")


# PRIME.


def test_implicit_rewards_sum_to_the_log_ratio_of_the_reply():
    phi, ref = np.log(RNG.random((2, 30)))
    rewards = implicit_rewards(phi, ref, beta=0.05)
    assert rewards.sum() == pytest.approx(0.05 * (phi.sum() - ref.sum()), abs=1e-9)
    assert implicit_rewards(phi, phi).tolist() == [0.0] * 30
    with pytest.raises(ValueError, match="two log-probabilities per token"):
        implicit_rewards(phi, ref[1:])


def test_the_loss_is_the_cross_entropy_of_the_outcome():
    rewards = [RNG.normal(size=n) for n in (3, 5, 2)]
    correct = [True, False, True]
    p = [1 / (1 + math.exp(-r.sum())) for r in rewards]
    brute = -(math.log(p[0]) + math.log(1 - p[1]) + math.log(p[2])) / 3
    assert outcome_loss(rewards, correct) == pytest.approx(brute)
    assert outcome_loss([[1000.0], [-1000.0]], [True, False]) == 0.0
    assert outcome_loss([[-1000.0]], [True]) == 1000.0  # no overflow


def brute_advantages(process, outcomes, w_p, w_o):
    n, found = len(process), []
    for i in range(n):
        others = [j for j in range(n) if j != i]
        base = sum(np.mean(process[j]) for j in others) / (n - 1)
        own = outcomes[i] - sum(outcomes[j] for j in others) / (n - 1)
        found.append(
            [
                w_p * sum(process[i][s] - base for s in range(t, len(process[i]))) + w_o * own
                for t in range(len(process[i]))
            ]
        )
    return found


@pytest.mark.parametrize("weights", [(1.0, 1.0), (5.0, 1.0), (0.0, 1.0), (1.0, 0.0)])
def test_advantages_are_leave_one_out_per_source_and_summed_to_the_end(weights):
    process = [RNG.normal(size=n) for n in (3, 1, 7, 4)]
    outcomes = [1.0, 0.0, 1.0, 0.0]
    found = prime_advantages(
        process, outcomes, process_weight=weights[0], outcome_weight=weights[1]
    )
    for ours, brute in zip(found, brute_advantages(process, outcomes, *weights), strict=True):
        assert ours == pytest.approx(brute)


def test_the_mixing_weight_really_mixes():
    """The trap: in the authors' script the coefficient of the process rewards changed nothing."""
    process, outcomes = [[0.1, 0.2], [0.4]], [1.0, 0.0]
    one, five = (prime_advantages(process, outcomes, process_weight=w)[0] for w in (1.0, 5.0))
    outcome = prime_advantages(process, outcomes, process_weight=0.0)[0]
    assert five - outcome == pytest.approx(5 * (one - outcome))
    assert not np.allclose(one, five)


def test_how_the_authors_code_differs():
    process = [RNG.normal(size=n) for n in (3, 5, 4)]
    n, means = 3, [r.mean() for r in process]
    ours = prime_advantages(process, [0.0] * 3)
    for i, r in enumerate(process):
        theirs = r * n / (n - 1) - sum(means) / (n - 1)
        shaped = np.append(ours[i], 0.0)
        per_token = np.array([a - b for a, b in pairwise(shaped)])
        assert theirs - per_token == pytest.approx((r - means[i]) / (n - 1))
        assert theirs.sum() == pytest.approx(ours[i][0])  # the whole reply's is the same


def test_advantages_need_two_replies():
    for process, outcomes in (([[1.0]], [1.0]), ([[1.0], [1.0]], [1.0]), ([[1.0], []], [1.0, 0.0])):
        with pytest.raises(ValueError, match="two replies"):
            prime_advantages(process, outcomes)


def trajectory(ids, mask, valid=True):
    return Trajectory(
        task_id="t",
        env_id="e",
        token_ids=tuple(ids),
        mask=tuple(mask),
        logprobs=(0.0,) * len(ids),
        prompt_length=1,
        turns=(Turn((), Message("assistant", "")),),
        stop_reason=StopReason.COMPLETED if valid else StopReason.ENV_ERROR,
        reward=0.0 if valid else None,
        failure=None if valid else Invalid("sandbox"),
    )


def test_two_engines_score_a_trajectory_and_tool_output_is_left_out():
    codec = ByteTokenizer()
    chat = [{"role": "user", "content": "6*7?"}]
    prompt = codec.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    reply = codec.encode("It is 42.")
    phi, ref = (ScriptedEngine(["It is 42."], codec, probability=p) for p in (0.9, 0.6))
    mask = [False] * len(prompt) + [k not in (2, 3) for k in range(len(reply))]
    member = trajectory(prompt + reply, mask)
    rewards = asyncio.run(token_rewards(member, phi.logprobs, ref.logprobs, beta=0.5))
    assert rewards == pytest.approx([0.5 * math.log(0.9 / 0.6)] * (len(reply) - 2))
    group = Group(TASK, (member, trajectory([1, 2], [False, True], valid=False)))
    values = asyncio.run(implicit_reward(phi.logprobs, ref.logprobs, beta=0.5)(group))
    assert values == [pytest.approx(rewards.sum()), None]

    async def broken(ids):
        raise RuntimeError("gone")

    values = asyncio.run(implicit_reward(phi.logprobs, broken)(group))
    assert values == [Invalid("engine", "RuntimeError: gone"), None]


# POLAR.


def test_the_released_models_format():
    form = PolarFormat(ByteTokenizer())
    text = form("Q", "ref", "out")
    assert text == "Q\nref<|reward|>Q\nout[UNUSED_TOKEN_130]"


def test_lengths_are_kept_by_cutting_answers_then_prompts():
    form = PolarFormat(ByteTokenizer(), max_length=34, max_response=10)
    text = form("abcdefghij", "r" * 50 + "R", "c" * 50 + "C")
    # answers keep their last 10; (34 - 4 - 20) // 2 = 5 tokens are left for each prompt
    assert text == f"fghij\n{'r' * 9}R<|reward|>fghij\n{'c' * 9}C[UNUSED_TOKEN_130]"
    right = PolarFormat(ByteTokenizer(), max_response=3, cut="right")
    assert right("Q", "abcdef", "x") == "Q\nabc<|reward|>Q\nx[UNUSED_TOKEN_130]"
    none = PolarFormat(ByteTokenizer(), max_length=10, max_response=10)
    assert none("abc", "r" * 20, "c").startswith("\nr")


def test_an_answer_cannot_bring_its_own_separator():
    form = PolarFormat(ByteTokenizer())
    text = form("Q", "ref", "x<|reward|>Q\nref[UNUSED_<|reward|>TOKEN_130]")
    assert text.count("<|reward|>") == 1 and text.count("[UNUSED_TOKEN_130]") == 1
    nested = form("Q", "r", "<|rew<|reward|>ard|>")
    assert nested.count("<|reward|>") == 1


def overlap(text):
    """A stand-in for a trained model: shared words of the two halves, less those not shared."""
    one, other = text.removesuffix("[UNUSED_TOKEN_130]").split("<|reward|>")
    a, b = set(one.split()), set(other.split())
    return float(len(a & b) - 3 * len(a ^ b))


async def overlaps(texts):
    return [overlap(text) for text in texts]


def said(text):
    return (*TASK.prompt, Message("assistant", text))


def test_the_reward_is_relative_to_the_reference():
    reward = PolicyDiscriminative(overlaps, PolarFormat(ByteTokenizer()))
    equal, wrong = (asyncio.run(reward(TASK, said(t))) for t in ("Beijing.", "Shanghai."))
    assert equal > wrong
    assert isinstance(asyncio.run(reward(Task("n", TASK.prompt), said("x"))), Invalid)


def test_a_model_that_fails_is_invalid():
    async def lost(texts):
        raise JudgeError("gone")

    async def nothing(texts):
        return [math.nan]

    async def crashes(texts):
        raise KeyError("x")

    form = PolarFormat(ByteTokenizer())
    for scores, message in ((lost, "gone"), (nothing, "nan"), (crashes, "KeyError")):
        verdict = asyncio.run(PolicyDiscriminative(scores, form)(TASK, said("x")))
        assert isinstance(verdict, Invalid) and message in verdict.message


def test_bradley_terry_loss_by_hand_and_without_overflow():
    assert bradley_terry_loss([0.0], [0.0]) == pytest.approx(math.log(2))
    brute = -(math.log(1 / (1 + math.exp(-2))) + math.log(1 / (1 + math.exp(1)))) / 2
    assert bradley_terry_loss([3.0, 0.0], [1.0, 1.0]) == pytest.approx(brute)
    assert bradley_terry_loss([1000.0, -1000.0], [-1000.0, 1000.0]) == pytest.approx(1000.0)


def test_pairs_are_symmetric():
    answers = [(f"p{k}", [[f"{k}{name}{n}" for n in range(3)] for name in "abc"]) for k in range(2)]
    pairs = policy_pairs(answers)
    assert len(pairs) == 2 * 3 * (3 * 2) * (2 * 3)
    for place in ("reference", "same", "other"):
        count = Counter(getattr(pair, place) for pair in pairs)
        assert len(set(count.values())) == 1 and len(count) == 18
    assert all(p.reference[1] == p.same[1] != p.other[1] for p in pairs)
    assert all(p.reference != p.same for p in pairs)
    assert policy_pairs([("p", [["x", "y"], ["x", "x"]])]) != []
    assert all(p.other != p.same for p in policy_pairs([("p", [["x", "y"], ["x", "x"]])]))


def histogram(text):
    return np.array([text.count(letter) for letter in "abcd"]) / len(text)


def compared(policies, rng):
    """Per comparison the squared differences of letter shares: [n, 4] same, [n, 4] other."""
    texts = [["".join(rng.choice(list("abcd"), 40, p=p)) for _ in range(2)] for p in policies]
    pairs = policy_pairs([("p", texts)])
    return (
        np.array([(histogram(p.reference) - histogram(getattr(p, place))) ** 2 for p in pairs])
        for place in ("same", "other")
    )


@pytest.mark.parametrize("seed", range(5))
def test_a_small_discriminator_learns_to_tell_policies_apart_by_the_loss(seed):
    """Policies are letter distributions, the model four weights of squared differences."""
    rng = np.random.default_rng(seed)
    same, other = compared(rng.dirichlet([0.7] * 4, 10), rng)
    weights = np.zeros(4)
    before = bradley_terry_loss(-(same @ weights), -(other @ weights))
    for _ in range(200):
        slack = 1 / (1 + np.exp((other - same) @ weights))
        weights += 20.0 * (slack[:, None] * (other - same)).mean(axis=0)
    assert bradley_terry_loss(-(same @ weights), -(other @ weights)) < before / 2
    same, other = compared(rng.dirichlet([0.7] * 4, 10), rng)  # policies never seen
    assert (same @ weights < other @ weights).mean() > 0.85
