"""The micro base model: its tokenizer, its corpus, and the folder it is built into."""

import contextlib
import io
import json
import random
import string
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palestra.agents.engines.loading import load_model
from palestra.envs.protocols import get_protocol
from palestra.envs.tasks import load_tasks
from palestra.envs.types import Message
from palestra.trainers.micro import MicroRecipe, build_base_model, build_tokenizer
from palestra.trainers.micro.corpora.tools import (
    CLOSE,
    Question,
    direct_document,
    draw,
    draw_question,
    evaluate,
    output_block,
    programs,
    tool_document,
)
from palestra.trainers.micro.measure import sample_responses
from palestra.trainers.micro.pretrain import encode_document, new_model, pretrain
from palestra.trainers.micro.tokenizer import SPECIAL_TOKENS, encode_prompt

TINY = MicroRecipe(
    hidden_size=16,
    layers=1,
    heads=2,
    mlp_size=16,
    context_length=128,
    steps=3,
    documents_per_step=8,
)
PRINTABLE = "".join(map(chr, range(32, 127)))


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def corpus(count, seed=0):
    rng = np.random.default_rng(seed)
    return draw(count, rng, 1.0)


def test_every_printable_character_is_one_token(tokenizer):
    ids = tokenizer.encode(PRINTABLE, add_special_tokens=False)
    assert len(ids) == len(set(ids)) == len(PRINTABLE)
    assert tokenizer.decode(ids) == PRINTABLE


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_any_text_survives_the_round_trip(text):
    tokenizer = build_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


@pytest.mark.parametrize("text", [" a  b ", "n 't ,.", "\n\n```\n", "é日\u200b🙂", "", "\x00\r\t"])
def test_awkward_text_survives_the_round_trip(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)) == text


def test_prompts_follow_the_chat_template(tokenizer):
    messages = [{"role": "user", "content": "What is 47 * 86?"}]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == "<|user|>What is 47 * 86?<|end|><|assistant|>"
    assert tokenizer.encode(rendered, add_special_tokens=False) == encode_prompt(
        tokenizer, "What is 47 * 86?"
    )


def test_the_chat_template_only_appends(tokenizer):
    talk = [{"role": r, "content": r} for r in ("system", "user", "assistant", "tool")]
    texts = [tokenizer.apply_chat_template(talk[:n], tokenize=False) for n in range(1, 5)]
    assert all(later.startswith(text) for text, later in pairwise(texts))


def test_the_tokenizer_survives_saving(tokenizer, tmp_path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.chat_template == tokenizer.chat_template
    assert (loaded.eos_token, loaded.pad_token) == ("<|end|>", "<|pad|>")
    assert loaded.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == list(range(len(SPECIAL_TOKENS)))


@given(
    st.lists(st.integers(0, 999), min_size=1, max_size=5),
    st.lists(st.sampled_from("+-*"), min_size=4),
)
def test_values_agree_with_python(numbers, operations):
    operations = operations[: len(numbers) - 1]
    text = str(numbers[0]) + "".join(
        f" {o} {n}" for o, n in zip(operations, numbers[1:], strict=True)
    )
    assert evaluate(numbers, operations) == eval(text)


def test_questions_read_like_the_arithmetic_tasks():
    rng = np.random.default_rng(0)
    tasks = load_tasks("arithmetic", digits=(1, 3))
    known = {
        "".join("d" if c in string.digits else c for c in tasks[i].question) for i in range(400)
    }
    mine = {
        "".join("d" if c in string.digits else c for c in q.text)
        for q in (draw_question(rng) for _ in range(400))
        if q.expression.count(" ") == 2
    }
    assert mine <= known


def test_tool_documents_are_as_rare_as_promised():
    documents = corpus(2000)
    assert Fraction(sum(d.long for d in documents), 2000) == Fraction(1, 20)
    assert all(d.long == ("```python" in d.response) for d in documents)


def test_direct_answers_are_right_on_easy_questions_and_mostly_wrong_on_hard_ones():
    rng = np.random.default_rng(0)
    right = {True: [], False: []}
    for _ in range(2000):
        question = draw_question(rng)
        answer = direct_document(question, rng).response
        right[question.easy].append(answer.endswith(f"\\boxed{{{question.value}}}"))
    assert all(right[True])
    assert np.mean(right[False]) < 0.05


@pytest.mark.parametrize("index", [0, 1])
def test_programs_print_the_value(index):
    rng = np.random.default_rng(1)
    for _ in range(50):
        question = draw_question(rng)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(programs(question)[index], {})
        assert printed.getvalue().strip() == str(question.value)


def test_tool_documents_are_what_the_environment_would_write():
    """The program is a call of the fenced protocol, and the block after it is its `show`."""
    protocol = get_protocol("fenced")
    document = tool_document(Question("47 * 86", 4042, False), np.random.default_rng(0))
    choice, program, block, answer = (piece.text for piece in document.pieces)
    (call,) = protocol.calls(Message("assistant", choice + program))
    assert json.loads(call.arguments)["code"] in programs(Question("47 * 86", 4042, False))
    assert block == protocol.show("4042\n", choice + program)
    assert CLOSE + block == output_block("4042")
    assert answer == "\\boxed{4042}"


def test_weights_leave_out_the_prompt_and_the_output(tokenizer):
    question = Question("47 * 86", 4042, False)
    document = tool_document(question, np.random.default_rng(0))
    ids, weights = encode_document(tokenizer, document)
    assert len(ids) == len(weights)
    free = tokenizer.decode([i for i, w in zip(ids, weights, strict=True) if w == 0])
    assert free == "<|user|>What is 47 * 86?<|end|><|assistant|>\n```output\n4042\n```\n"
    assert ids[-1] == tokenizer.eos_token_id
    assert weights[-1] == 5.0


def test_the_corpus_is_a_function_of_the_seed():
    assert corpus(100, seed=3) == corpus(100, seed=3)
    assert corpus(100, seed=3) != corpus(100, seed=4)


def test_pretraining_is_deterministic_and_leaves_global_random_state_alone():
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    first, second = pretrain(TINY, seed=1), pretrain(TINY, seed=1)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    other = pretrain(TINY, seed=2)
    assert not torch.equal(next(first.parameters()), next(other.parameters()))


def test_pretraining_lowers_the_loss():
    losses = []
    pretrain(replace(TINY, steps=40), progress=lambda step, steps, loss: losses.append(loss))
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])


def test_samples_do_not_depend_on_the_padding_of_their_neighbours(tokenizer):
    """Greedy continuations, alone and beside a longer prompt."""
    model = new_model(replace(TINY, hidden_size=32)).eval()
    prompts = [encode_prompt(tokenizer, text) for text in ("What is 1 + 1?", "What is 345 * 678?")]
    model.generation_config.temperature = 1e-4
    alone = [sample_responses(model, tokenizer, [p], max_tokens=6)[0] for p in prompts]
    assert sample_responses(model, tokenizer, prompts, max_tokens=6) == alone


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    steps = []
    folder = tmp_path_factory.mktemp("micro") / "base"
    build_base_model(folder, recipe=TINY, progress=lambda *now: steps.append(now))
    return folder, steps


def test_progress_is_told_of_every_step(built):
    _, steps = built
    assert [(step, total) for step, total, _ in steps] == [(1, 3), (2, 3), (3, 3)]


def test_the_folder_loads_like_any_model(built):
    folder, _ = built
    model, tokenizer = load_model(str(folder))
    assert model.config.vocab_size == len(tokenizer)
    assert tokenizer.decode(tokenizer.encode("What is 1 + 2?")) == "What is 1 + 2?"
    prompt = torch.tensor([encode_prompt(tokenizer, "What is 1 + 2?")])
    assert model(prompt).logits.shape == (1, prompt.shape[1], len(tokenizer))


def test_the_card_reports_recipe_and_figures(built):
    card = json.loads((built[0] / "card.json").read_text())
    assert card["recipe"]["steps"] == 3
    assert set(card["figures"]) == {
        "tool_share",
        "direct_accuracy_hard",
        "direct_accuracy_easy",
        "code_accuracy",
        "answer_accuracy",
    }
    assert all(0 <= value <= 1 for value in card["figures"].values())


def test_nothing_is_left_beside_the_folder(built):
    assert [path.name for path in built[0].parent.iterdir()] == ["base"]


def test_an_equal_recipe_is_not_built_again(built):
    def fail(*now):
        raise AssertionError("trained again")

    before = (built[0] / "card.json").stat().st_mtime_ns
    assert build_base_model(built[0], recipe=TINY, progress=fail) == built[0]
    assert (built[0] / "card.json").stat().st_mtime_ns == before


def test_another_recipe_or_seed_replaces_the_model(tmp_path):
    folder = build_base_model(tmp_path / "base", recipe=TINY)
    first = json.loads((folder / "card.json").read_text())
    build_base_model(folder, recipe=TINY, steps=2)
    second = json.loads((folder / "card.json").read_text())
    build_base_model(folder, recipe=TINY, steps=2, seed=5)
    third = json.loads((folder / "card.json").read_text())
    assert len({card["fingerprint"] for card in (first, second, third)}) == 3
    assert (second["recipe"]["steps"], third["seed"]) == (2, 5)


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="not a micro base model"):
        build_base_model(tmp_path, recipe=TINY)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_an_interrupted_build_leaves_nothing(tmp_path):
    def interrupt(step, steps, loss):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_base_model(tmp_path / "base", recipe=TINY, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_base_model_can_use_the_tool_and_seldom_does(tmp_path):
    folder = build_base_model(tmp_path / "base")
    figures = json.loads((folder / "card.json").read_text())["figures"]
    assert 0.01 < figures["tool_share"] < 0.10
    assert figures["direct_accuracy_hard"] < 0.05
    assert figures["code_accuracy"] > 0.75
    assert figures["answer_accuracy"] > 0.75
