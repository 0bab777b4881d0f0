"""The local engine's C++ kernels against torch's operators, and life without a compiler."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from local_models import OWN, assert_exact, complete, engine, prompt, run  # noqa: E402

from palestra.agents.engines.local import decoder, sampling  # noqa: E402
from palestra.agents.engines.local.backend import Segment  # noqa: E402
from palestra.agents.engines.local.cache import KVCache  # noqa: E402
from palestra.agents.engines.local.kernels import load_kernels  # noqa: E402
from palestra.agents.engines.local.native import NativeOperators  # noqa: E402
from palestra.agents.engines.local.operators import Operators, TorchOperators  # noqa: E402
from palestra.agents.engines.local.sampling import Scorer, sample  # noqa: E402
from palestra.agents.engines.local.weights import Shape  # noqa: E402

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 4e-2}
compiled = pytest.mark.skipif(load_kernels() is None, reason="needs a C++ compiler")


class Layer:
    """The part of `weights.Layer` that attention reads."""

    def __init__(self, qk_norm: Any) -> None:
        self.qk_norm = qk_norm


def operators(native: bool, dtype: Any, dim: int, groups: int, window: int | None) -> Operators:
    shape = Shape(1, 2 * groups, 2, dim, 300, 1e-6, True, (window,))
    cache = KVCache(1, 2, dim, dtype, torch.device("cpu"), dense=not native)
    angles = torch.arange(96.0)[:, None] * torch.linspace(0.1, 1.0, dim // 2)
    plain = TorchOperators(shape, cache, torch.polar(torch.ones_like(angles), angles))
    kernels = load_kernels()
    if not native:
        return plain
    assert kernels is not None
    return NativeOperators(kernels, plain)


def attend_in_three_steps(ops: Any, dtype: Any, norm: bool) -> Any:
    """A prompt in each of three rows, then more for two of them, then a token for each."""
    torch.manual_seed(0)
    shape = ops.shape
    width = (shape.heads + 2 * shape.kv_heads) * shape.head_dim
    layer = Layer(torch.rand(shape.heads + shape.kv_heads, shape.head_dim) if norm else None)
    ops.cache.reserve(3, 64)
    first = [Segment(row, 0, [0] * count) for row, count in enumerate((20, 3, 33))]
    more = [Segment(2, 33, [0] * 5), Segment(0, 20, [0] * 7)]
    outs = [ops.prefill(first)(0, layer, torch.randn(56, width).to(dtype))]
    outs.append(ops.prefill(more)(0, layer, torch.randn(12, width).to(dtype)))
    outs.append(ops.decode(torch.tensor([27, 3, 38]))(0, layer, torch.randn(3, width).to(dtype)))
    return torch.cat(outs).float()


@compiled
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("dim", [12, 16, 32, 40, 64, 128])
@pytest.mark.parametrize(("groups", "window", "norm"), [(1, None, False), (3, 9, True)])
def test_attention(dtype: Any, dim: int, groups: int, window: int | None, norm: bool) -> None:
    ours, plain = (
        attend_in_three_steps(operators(native, dtype, dim, groups, window), dtype, norm)
        for native in (True, False)
    )
    assert torch.allclose(ours, plain, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@compiled
def test_attention_does_not_depend_on_the_batch() -> None:
    """Few rows are shared out by their heads, many are not: to the bit the same."""
    threads = torch.get_num_threads()
    outs = []
    try:
        torch.set_num_threads(2)
        for rows in (3, 8):
            torch.manual_seed(0)
            ops: Any = operators(True, torch.float32, 128, 3, None)
            width = (ops.shape.heads + 2 * ops.shape.kv_heads) * 128
            ops.cache.reserve(8, 96)
            prompts = [Segment(row, 0, [0] * 90) for row in range(8)]
            ops.prefill(prompts)(0, Layer(None), torch.randn(720, width))
            attend, qkv = ops.decode(torch.tensor([90] * rows)), torch.randn(8, width)[:rows]
            outs.append(attend(0, Layer(None), qkv)[:3])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*outs)


@compiled
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("rows", [1, 5, 300])
def test_norm_and_swiglu(dtype: Any, rows: int) -> None:
    torch.manual_seed(0)
    ours, plain = (operators(native, dtype, 16, 1, None) for native in (True, False))
    x, weight = 3 * torch.randn(rows, 88).to(dtype), torch.randn(88).to(dtype)
    gate_up = 20 * torch.randn(rows, 2 * 56).to(dtype)
    bound = TOLERANCE[dtype]
    assert torch.allclose(ours.norm(x, weight), plain.norm(x, weight), atol=bound, rtol=bound)
    assert torch.allclose(ours.swiglu(gate_up), plain.swiglu(gate_up), atol=bound, rtol=bound)


@compiled
@pytest.mark.parametrize("vocab", [262, 9000])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_sampling(vocab: int, dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    rows = 200
    logits = (4 * torch.randn(rows, vocab)).to(dtype)
    inverse = torch.rand(rows) + 0.5
    uniform, greedy = torch.rand(rows, dtype=torch.float64), torch.rand(rows) < 0.2
    uniform[:2] = torch.tensor([0.0, 1.0 - 2**-53])

    def draw() -> Any:
        scorer = Scorer(vocab)
        tiles = [logits[:, slice(*scorer.bounds(i))] for i in range(scorer.tiles)]
        return sample(scorer(tiles, logits, inverse), uniform, greedy)

    ids, logprobs = draw()
    monkeypatch.setattr(sampling, "load_kernels", lambda: None)
    plain_ids, plain_logprobs = draw()
    # Rounding may move the border between two tokens past a uniform number, hardly ever.
    assert (ids != plain_ids).sum() <= 1
    same = ids == plain_ids
    assert torch.allclose(logprobs[same], plain_logprobs[same], atol=1e-5)
    exact = torch.log_softmax(logits.double() * inverse[:, None], -1)
    assert torch.allclose(logprobs.double(), exact.gather(1, ids[:, None])[:, 0], atol=1e-5)
    assert torch.equal(ids[greedy], (logits.float() * inverse[:, None])[greedy].argmax(-1))


@compiled
def test_a_row_does_not_depend_on_its_neighbours_or_on_threads() -> None:
    torch.manual_seed(0)
    kernels = load_kernels()
    assert kernels is not None
    many = torch.randn(500, 64)
    weight = torch.randn(64)
    whole = kernels.rms_norm(many, weight, 1e-6)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(kernels.rms_norm(many, weight, 1e-6), whole)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(kernels.rms_norm(many[7:8].clone(), weight, 1e-6), whole[7:8])


@pytest.mark.parametrize("arch", OWN)
def test_without_kernels_results_are_the_same(arch: str, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [(prompt(n), {"max_tokens": 16, "seed": n}) for n in (3, 20, 41)]
    usual = run(complete(engine(arch), *requests))
    monkeypatch.setattr(decoder, "load_kernels", lambda: None)
    monkeypatch.setattr(sampling, "load_kernels", lambda: None)
    plain = engine(arch)
    assert type(plain._backend.operators) is TorchOperators
    for (ids, _), one, other in zip(requests, usual, run(complete(plain, *requests)), strict=True):
        assert one.token_ids == other.token_ids
        assert_exact(arch, ids, other)


def test_a_failing_compiler_is_reported_and_does_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("PALESTRA_KERNELS", raising=False)
    for compiler in ("/bin/false", str(tmp_path / "none")):
        monkeypatch.setenv("CXX", compiler)
        with caplog.at_level(logging.WARNING):
            assert load_kernels.__wrapped__() is None
        assert "it runs slower" in caplog.text
        caplog.clear()
    monkeypatch.setenv("PALESTRA_KERNELS", "0")
    assert load_kernels.__wrapped__() is None
    assert not list(tmp_path.rglob("*.so"))


@compiled
def test_the_library_is_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert load_kernels.__wrapped__() is not None
    (library,) = tmp_path.rglob("*.so")
    before = library.stat().st_mtime_ns
    assert load_kernels.__wrapped__() is not None
    assert list(tmp_path.rglob("*.so")) == [library]
    assert library.stat().st_mtime_ns == before
