"""Packed attention and the tiled output head against plain PyTorch and plain transformers."""

import logging

import numpy as np
import pytest
import torch
from episodes import VOCAB, exact, random_groups, sampled_by, tiny_model
from transformers import Gemma2Config, Gemma2ForCausalLM, MistralConfig, MistralForCausalLM

from palestra.trainers import attention, logprobs
from palestra.trainers.algorithms import get_algorithm
from palestra.trainers.attention import Plan
from palestra.trainers.batching import build_batch
from palestra.trainers.logprobs import can_pack, score, token_logprobs
from palestra.trainers.packing import Segment, micro_batches


@pytest.fixture
def small_tiles(monkeypatch):
    """Several blocks and tiles even for small inputs, the last of each ragged."""
    monkeypatch.setattr(logprobs, "TOKEN_BLOCK", 5)
    monkeypatch.setattr(logprobs, "_tiles", lambda words, states: _cut(words, 7))


def _cut(words, width):
    return (slice(i, min(i + width, words)) for i in range(0, words, width))


def head_inputs(dtype, bias, m=17, dim=6, vocab=30):
    generator = torch.Generator().manual_seed(0)
    shapes = {"hidden": (m, dim), "weight": (vocab, dim), "bias": (vocab,)}
    x = {k: torch.randn(s, generator=generator, dtype=torch.float64) for k, s in shapes.items()}
    x = {k: v.to(dtype).requires_grad_() for k, v in x.items() if bias or k != "bias"}
    return x, torch.randint(vocab, (m,), generator=generator)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.05)]
)
def test_head_matches_log_softmax(small_tiles, dtype, atol, temperature, bias):
    x, targets = head_inputs(dtype, bias)
    values, entropy = token_logprobs(**x, targets=targets, temperature=temperature, entropy=True)
    exact = {k: v.detach().double().requires_grad_() for k, v in x.items()}
    logits = exact["hidden"] @ exact["weight"].T + (exact["bias"] if bias else 0.0)
    logs = torch.log_softmax(logits / temperature, -1)
    expected = logs.gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(values.double(), expected, rtol=0, atol=atol)
    plogp = -(logs.exp() * logs).sum(-1)
    torch.testing.assert_close(entropy.double(), plogp.detach(), rtol=0, atol=atol)
    assert not entropy.requires_grad

    upstream = torch.linspace(-1, 1, len(targets), dtype=torch.float64)
    got = torch.autograd.grad((values * upstream.to(values.dtype)).sum(), list(x.values()))
    want = torch.autograd.grad((expected * upstream).sum(), list(exact.values()))
    for mine, theirs in zip(got, want, strict=True):
        scale = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=atol * scale)


def test_head_survives_huge_logits(small_tiles):
    x, targets = head_inputs(torch.float64, False)
    values, entropy = token_logprobs(
        x["hidden"] * 1e4, x["weight"], targets, entropy=True, temperature=1.0
    )
    assert torch.isfinite(values).all() and torch.isfinite(entropy).all()


def test_head_with_a_frozen_weight_and_no_tokens():
    x, targets = head_inputs(torch.float64, False)
    frozen = x["weight"].detach()
    values, entropy = token_logprobs(x["hidden"], frozen, targets)
    values.sum().backward()
    assert entropy is None and x["hidden"].grad.abs().sum() > 0
    empty, _ = token_logprobs(x["hidden"][:0], x["weight"], targets[:0])
    assert empty.shape == (0,)


def test_plan_blocks_and_masks():
    plan = Plan([Segment(4), Segment(20, 0), Segment(19, 0), Segment(3, 0), Segment(2, 1)])
    assert plan.context == [[], [0], [0], [0], [0, 1]]
    assert sorted(map(sorted, plan.blocks)) == [[0], [1, 2], [3], [4]]
    assert plan.mask(5, 0, None, "cpu") is None
    expected = [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert plan.mask(2, 2, None, "cpu").int().tolist() == expected
    assert plan.mask(2, 2, 2, "cpu").int().tolist() == [[0, 1, 1, 0], [0, 0, 1, 1]]


def scored(model, batch, **options):
    """[T] log-probs over all micro-batches, with gradient."""
    result = torch.zeros(batch.num_tokens, dtype=model.dtype)
    for micro in micro_batches(batch, **options):
        values, _ = score(model, micro)
        result = result.index_put((torch.as_tensor(micro.index),), values)
    return result


WAYS = [
    {"max_tokens": 10_000},
    {"max_tokens": 150},
    {"max_tokens": 10_000, "min_shared": 4},
    {"max_tokens": 10_000, "share_prefix": False},
]


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_packed_forward_and_backward_match_plain_forwards(kind, dtype, atol):
    batch = build_batch(random_groups(np.random.default_rng(0)), get_algorithm("grpo"))
    model = tiny_model(kind, dtype).eval()
    expected = torch.as_tensor(sampled_by(model, batch), dtype=dtype)
    upstream = torch.as_tensor(np.sin(np.arange(batch.num_tokens)) * batch.loss_mask, dtype=dtype)
    plain = scored(model, batch, max_tokens=10_000, padded=True)
    wanted = torch.autograd.grad((plain * upstream).sum(), list(model.parameters()))
    assert can_pack(model)
    for way in WAYS:
        found = scored(model, batch, **way)
        torch.testing.assert_close(found, expected, rtol=0, atol=atol)
        grads = torch.autograd.grad((found * upstream).sum(), list(model.parameters()))
        for mine, theirs in zip(grads, wanted, strict=True):
            scale = max(1.0, float(theirs.abs().max()))
            torch.testing.assert_close(mine, theirs, rtol=0, atol=atol * scale)


def test_sliding_windows_hold_across_a_shared_prefix():
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=7,
        initializer_range=0.2,
    )
    model = exact(MistralForCausalLM(config).double().eval())
    batch = build_batch(random_groups(np.random.default_rng(1)), get_algorithm("grpo"))
    expected = torch.as_tensor(sampled_by(model, batch))
    assert can_pack(model)
    found = scored(model, batch, max_tokens=10_000, min_shared=4)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_a_packed_model_still_answers_plain_calls():
    model = tiny_model()
    ids = torch.arange(1, 21).reshape(2, 10)
    mask = torch.ones(2, 10, dtype=torch.bool)
    mask[0, :4] = False
    before = model(ids, attention_mask=mask).logits
    attention.enable(model)
    torch.testing.assert_close(model(ids, attention_mask=mask).logits, before, rtol=0, atol=1e-12)


def test_a_model_that_cannot_pack_says_so_and_trains_on_padded_batches(caplog):
    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
    )
    model = Gemma2ForCausalLM(config).double().eval()
    implementation = model.config._attn_implementation
    with caplog.at_level(logging.WARNING):
        assert not can_pack(model)
    assert "Gemma2ForCausalLM trains on padded batches: it soft-caps" in caplog.text
    assert model.config._attn_implementation == implementation
    batch = build_batch(random_groups(np.random.default_rng(2)), get_algorithm("grpo"))
    expected = torch.as_tensor(sampled_by(model, batch))
    found = scored(model, batch, max_tokens=200, padded=True)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_a_packed_model_still_generates():
    model = tiny_model(dtype=torch.float32)
    ids, options = torch.arange(1, 9)[None], {"max_new_tokens": 12, "do_sample": False}
    before = model.generate(ids, **options)
    attention.enable(model)
    assert torch.equal(model.generate(ids, **options), before)
