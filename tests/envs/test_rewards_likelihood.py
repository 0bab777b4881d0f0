"""Likelihood rewards against brute force on a small vocabulary, and the tokenisation trap."""

import asyncio
import itertools
import math
from functools import cache

import numpy as np
import pytest
from fakes import tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st

from palestra.agents.engines.byte_tokenizer import ByteTokenizer
from palestra.agents.engines.scripted import ScriptedEngine
from palestra.envs.rewards.likelihood import (
    NOVER_SPLICE,
    gains,
    nover,
    nover_perplexity,
    nover_rewards,
    reference_likelihood,
    rlpr,
    rlpr_debiased,
    verifree,
)
from palestra.envs.rewards.splicing import Splice
from palestra.envs.types import (
    Group,
    Invalid,
    Message,
    StopReason,
    Task,
    Trajectory,
    Turn,
)

VOCABULARY = 3


class Letters:
    """A codec of one token per letter."""

    text = "abcdefghijklmnopqrstuvwxyz<>/ "

    def encode(self, text, *, add_special_tokens=False):
        return [self.text.index(letter) for letter in text]

    def decode(self, token_ids, *, skip_special_tokens=False):
        return "".join(self.text[i] for i in token_ids)


class TableModel:
    """A random autoregressive model over `VOCABULARY` tokens: every prefix has its own table."""

    def __init__(self, seed=0):
        self.seed = seed

    def table(self, prefix):
        rng = np.random.default_rng([self.seed, *prefix])
        weights = rng.random(VOCABULARY) ** 3 + 0.01
        return weights / weights.sum()

    def probability(self, prefix, tokens):
        total = 1.0
        for k, token in enumerate(tokens):
            total *= self.table((*prefix, *tokens[:k]))[token]
        return total

    async def logprobs(self, ids):
        return [math.log(self.table(ids[:t])[ids[t]]) for t in range(1, len(ids))]


def sequences(length):
    return list(itertools.product(range(VOCABULARY), repeat=length))


def answer_logprobs(model, prompt, z, y):
    found = asyncio.run(model.logprobs((*prompt, *z, *y)))
    return found[len(prompt) + len(z) - 1 :]


@pytest.mark.parametrize("seed", range(5))
def test_verifrees_mean_over_reasoning_is_the_probability_of_being_right(seed):
    """E_z[pi(y*|x,z)] = P(y*|x), by enumerating every z and every answer."""
    model, prompt, reference = TableModel(seed), (0, 1), (2, 0)
    mean = square = 0.0
    for z in sequences(3):
        p_z = model.probability(prompt, z)
        reward = verifree(answer_logprobs(model, prompt, z, reference))
        mean, square = mean + p_z * reward, square + p_z * reward**2
        everything = [verifree(answer_logprobs(model, prompt, z, y)) for y in sequences(2)]
        assert sum(everything) == pytest.approx(1.0)
    right = sum(model.probability(prompt, z + reference) for z in sequences(3))
    assert mean == pytest.approx(right, rel=1e-12)
    # Less variance than the 0/1 verifier on a sampled answer (Rao-Blackwell).
    assert square - mean**2 < right * (1 - right)


def test_rlpr_is_the_mean_token_probability():
    model, prompt, z, y = TableModel(1), (0,), (1, 2), (2, 1, 0)
    brute = [model.table((*prompt, *z, *y[:k]))[y[k]] for k in range(3)]
    assert rlpr(answer_logprobs(model, prompt, z, y)) == pytest.approx(sum(brute) / 3)
    assert verifree([math.log(0.5)] * 40) < 1e-12 < rlpr([math.log(0.5)] * 40) == 0.5
    assert rlpr_debiased(0.7, 0.4) == pytest.approx(0.3) and rlpr_debiased(0.4, 0.7) == 0.0
    for measure in (rlpr, verifree, lambda logprobs: nover_perplexity(logprobs, 1)):
        with pytest.raises(ValueError, match="at least one token"):
            measure([])


def test_nover_perplexity_by_hand():
    logprobs = [math.log(0.5), math.log(0.125)]  # mean -2 log 2, perplexity 4
    assert nover_perplexity(logprobs, 1) == pytest.approx(4.0)
    assert nover_perplexity(logprobs, 0) == pytest.approx(4.0)
    assert nover_perplexity(logprobs, 10) == pytest.approx(2.0)  # N = 2
    assert nover_perplexity(logprobs, 1000) == pytest.approx(math.sqrt(2))  # N = 4
    assert nover_perplexity([-1e6], 1) == math.inf


def test_nover_rewards_by_the_authors_rules():
    ppls, lengths = [2.0, 4.0, None, 3.0], [10, 30, 5, 20]
    # reasoning ranks: 1, 1/3, -, 2/3; longer and worse: 2 of 2, 0, -, 1 of 2
    expected = [1 + 1 + 1, 1 + 1 / 3 + 0, 0, 1 + 2 / 3 + 1 / 2]
    assert nover_rewards(ppls, lengths) == pytest.approx(expected)
    only_format = nover_rewards(ppls, lengths, reasoning_weight=0, efficiency_weight=0)
    assert only_format == [1, 1, 0, 1]
    assert nover_rewards([5.0], [3]) == [2.0]  # nobody to be more efficient than
    assert nover_rewards([None, None], [1, 2]) == [0.0, 0.0]


# The tokenisation trap.


@cache
def greedy_tokenizer():
    """BPE that merges across words and tags, as no regular expression splits the text first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    corpus = [f"{n} </think>\n\n<answer> \\boxed{{{n}}} </answer>" for n in range(50)]
    tokenizer.train_from_iterator(corpus, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


TOKENIZERS = [tiny_tokenizer, greedy_tokenizer, ByteTokenizer]
words = st.text(alphabet="abc 0123456789.\n\\{}<>/é😀", max_size=25)


@pytest.mark.parametrize("make", TOKENIZERS)
@settings(max_examples=50, deadline=None)
@given(reasoning=words, reference=words.filter(bool))
def test_splicing_in_the_sampled_answer_gives_back_the_sampled_ids(make, reasoning, reference):
    codec = make()
    for splice in (Splice(), NOVER_SPLICE, Splice(only_reference=True)):
        if splice.marker in reasoning:
            continue
        head = reasoning + splice.marker
        tail = splice.tail.replace("$reference", reference)
        sampled = codec.encode(head + tail, add_special_tokens=False)
        spliced = splice(sampled, reference, codec)
        assert list(spliced.token_ids) == sampled
        scored = codec.decode(sampled[spliced.start : spliced.end])
        assert (reference if splice.only_reference else tail) in scored
        before = codec.decode(sampled[: spliced.start])
        until = head + splice.tail.partition("$reference")[0] if splice.only_reference else head
        assert until.startswith(before)
        assert not until.startswith(codec.decode(sampled[: spliced.start + 1]))


def test_writing_the_reference_after_a_cut_would_give_other_ids():
    codec = tiny_tokenizer()
    sampled = codec.encode("so <answer> \\boxed{42} </answer>")
    naive = codec.encode("so <answer> ") + codec.encode("\\boxed{42} </answer>")
    assert naive != sampled and codec.decode(naive) == codec.decode(sampled)
    assert list(Splice()(sampled, "42", codec).token_ids) == sampled
    codec = greedy_tokenizer()
    sampled = codec.encode("so <answer> \\boxed{42} </answer>")
    assert codec.encode("so <answer") + codec.encode("> \\boxed{42} </answer>") != sampled


def test_reasoning_stays_as_it_was_sampled_even_where_it_is_not_canonical():
    codec = tiny_tokenizer()
    letters = [token for letter in "The answer is easy: " for token in codec.encode(letter)]
    assert letters != codec.encode("The answer is easy: ")
    sampled = letters + codec.encode("<answer> \\boxed{7} </answer>")
    spliced = Splice()(sampled, "42", codec)
    assert list(spliced.token_ids[: len(letters)]) == letters
    assert codec.decode(spliced.token_ids) == "The answer is easy: <answer> \\boxed{42} </answer>"
    assert Splice()(letters, "42", codec) is None


def test_the_first_marker_counts():
    codec = ByteTokenizer()
    sampled = codec.encode("a <answer>1</answer> b <answer>2</answer>")
    spliced = Splice()(sampled, "3", codec)
    assert codec.decode(spliced.token_ids) == "a <answer> \\boxed{3} </answer>"


# As group rewards, over engines.

LETTERS = Letters()
CUT = Splice("<", "$reference", only_reference=True)
TASK = Task("t", (Message("user", "q"),), "b")


def played(completion, prompt="q", *, stop=StopReason.COMPLETED, codec=LETTERS, task=TASK):
    sampled = codec.encode(completion)
    ids = codec.encode(prompt) + sampled
    valid = stop is not StopReason.ENV_ERROR
    return Trajectory(
        task_id=task.id,
        env_id="e",
        token_ids=tuple(ids),
        mask=tuple([False] * (len(ids) - len(sampled)) + [True] * len(sampled)),
        logprobs=(0.0,) * len(ids),
        prompt_length=len(ids) - len(sampled),
        turns=(Turn(task.prompt, Message("assistant", completion), num_sampled=len(sampled)),),
        stop_reason=stop,
        reward=0.0 if valid else None,
        failure=None if valid else Invalid("sandbox"),
    )


def spelled(probability):
    """Scores where every 'b' has the probability of `probability(text before it)`."""

    async def logprobs(ids):
        text = LETTERS.decode(ids)
        return [
            math.log(probability(text[:t]) if text[t] == "b" else 0.5) for t in range(1, len(text))
        ]

    return logprobs


def test_the_reference_is_scored_after_each_members_own_reasoning():
    helped = spelled(lambda before: 0.9 if "hint" in before else 0.3)
    group = Group(
        TASK,
        (
            played("hint<c"),
            played("nothing<c"),
            played("hint without marker"),
            played("hint<c", stop=StopReason.ENV_ERROR),
            played("hint<c", stop=StopReason.MAX_TOKENS),
        ),
    )
    reward = reference_likelihood(helped, LETTERS, measure=rlpr, splice=CUT)
    assert asyncio.run(reward(group)) == [pytest.approx(0.9), pytest.approx(0.3), 0.0, None, 0.0]
    debiased = reference_likelihood(helped, LETTERS, measure=rlpr, splice=CUT, debias=True)
    assert asyncio.run(debiased(group)) == [pytest.approx(0.6), 0.0, 0.0, None, 0.0]
    found = asyncio.run(gains(group, helped, LETTERS, splice=CUT))
    assert found == [pytest.approx(0.6), pytest.approx(0.0), None, None]


def test_verifree_with_its_own_splice_over_an_engine():
    """The scripted engine gives each scripted token 0.8: the product over the tail's tokens."""
    codec = ByteTokenizer()
    reply = "Six times seven. <answer> \\boxed{42} </answer>"
    engine = ScriptedEngine([reply], codec, probability=0.8)
    chat = [{"role": "user", "content": "6*7?"}]
    prompt = codec.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    right, wrong = (Task("t", (Message("user", "6*7?"),), r) for r in ("42", "43"))

    class Marked(ByteTokenizer):
        def encode(self, text, *, add_special_tokens=True):
            return super().encode(text, add_special_tokens=add_special_tokens)

    member = played(reply, prompt, codec=Marked(), task=right)
    reward = reference_likelihood(engine.logprobs, codec)
    tail = "> \\boxed{42} </answer>"
    (value,) = asyncio.run(reward(Group(right, (member,))))
    assert value == pytest.approx(0.8 ** len(tail))
    (other,) = asyncio.run(reward(Group(wrong, (member,))))
    assert other == pytest.approx(0.8 ** (len(tail) - 1) * 0.2 / (len(codec) - 1))


def test_nover_ranks_a_groups_perplexities():
    codec = ByteTokenizer()
    task = Task("t", TASK.prompt, "b")

    async def logprobs(ids):
        text = codec.decode(ids)
        return [-0.1 if "good" in text else -2.0] * (len(ids) - 1)

    texts = [
        "<think>good</think><answer>b</answer>",
        "<think>bad and longer</think><answer>b</answer>",
        "no tags",
    ]
    members = tuple(played(text, codec=codec, task=task) for text in texts)
    lost = played(texts[0], codec=codec, task=task, stop=StopReason.ENV_ERROR)
    values = asyncio.run(nover(logprobs, codec)(Group(task, (*members, lost))))
    assert values == [3.0, 1.5, 0.0, None]


def test_an_engine_that_fails_makes_members_invalid_never_zero():
    async def broken(ids):
        raise RuntimeError("gone")

    group = Group(TASK, (played("hint<c"), played("x", stop=StopReason.ENV_ERROR)))
    for reward in (
        reference_likelihood(broken, LETTERS, splice=CUT),
        nover(broken, LETTERS, splice=CUT),
    ):
        lost, none = asyncio.run(reward(group))
        assert lost == Invalid("engine", "RuntimeError: gone") and none is None
    empty = Group(Task("t", TASK.prompt, ""), (played("hint<c"),))
    reward = reference_likelihood(spelled(lambda before: 0.5), LETTERS, splice=CUT)
    (verdict,) = asyncio.run(reward(empty))
    assert verdict.kind == "verifier" and "at least one token" in verdict.message
