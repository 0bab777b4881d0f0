"""The local engine against Hugging Face: exact tokens and log-probabilities, sampling, reuse."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from fakes import tiny_tokenizer

torch = pytest.importorskip("torch")

from local_models import (  # noqa: E402
    ARCHITECTURES,
    OWN,
    assert_exact,
    complete,
    engine,
    hf_logprobs,
    model,
    prompt,
    run,
)

from palestra.agents.engines.base import ContextOverflow, Engine, SamplingParams  # noqa: E402
from palestra.agents.engines.local import LocalEngine  # noqa: E402
from palestra.agents.engines.local.backend import Segment  # noqa: E402
from palestra.agents.engines.local.decoder import Decoder  # noqa: E402
from palestra.agents.engines.local.generic import GenericBackend  # noqa: E402
from palestra.envs.types import Completion, FinishReason  # noqa: E402


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_greedy_tokens_and_logprobs_equal_hugging_face(arch: str) -> None:
    prompts = [prompt(n) for n in (1, 5, 33, 70, 17)]
    requests = [(p, {"max_tokens": 20, "temperature": 0.0}) for p in prompts]
    for ids, done in zip(prompts, run(complete(engine(arch), *requests)), strict=True):
        tensor = torch.tensor([ids])
        reference = model(arch).generate(
            tensor,
            attention_mask=torch.ones_like(tensor),
            max_new_tokens=20,
            do_sample=False,
            eos_token_id=tiny_tokenizer().eos_token_id,
            pad_token_id=0,
        )
        assert [*ids, *done.token_ids] == reference[0].tolist()
        assert_exact(arch, ids, done)


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_sampled_logprobs_and_scores_equal_a_full_forward(arch: str) -> None:
    async def work() -> None:
        async with engine(arch) as local:
            params = SamplingParams(max_tokens=24, temperature=0.7, seed=3)
            done = await local.generate(prompt(21), params)
            assert_exact(arch, prompt(21), done, 0.7)
            ids = [*prompt(21), *done.token_ids]
            scores = await local.logprobs(ids, 0.7)
            assert scores == pytest.approx(hf_logprobs(arch, ids, 0.7), abs=1e-4)

    run(work())


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_torchs_default_type_changes_nothing(default: torch.dtype) -> None:
    """Another thread may set it at any time: loading a model does."""
    request = (prompt(21), {"max_tokens": 12, "temperature": 0.7, "seed": 3})
    (expected,) = run(complete(engine(), request))
    local = engine()
    torch.set_default_dtype(default)
    try:
        (done,) = run(complete(local, request))
    finally:
        torch.set_default_dtype(torch.float32)
    assert (done.token_ids, done.logprobs) == (expected.token_ids, expected.logprobs)


def test_requests_that_decode_together_end_each_in_its_own_way() -> None:
    """At different limits, end tokens and stop strings; alone they give the same."""
    spoken = run(complete(engine(), (prompt(9), {"max_tokens": 30, "seed": 5})))[0].token_ids
    end = next(t for i, t in enumerate(spoken) if i > 6 and t not in spoken[:i])
    text = tiny_tokenizer().decode([*spoken[10:12]], skip_special_tokens=False)
    options = [
        {"max_tokens": 30, "seed": 5},
        {"max_tokens": 7, "seed": 5},
        {"max_tokens": 30, "seed": 5, "stop_token_ids": (end,)},
        {"max_tokens": 30, "seed": 5, "stop": (text,)},
        {"max_tokens": 25, "seed": 6, "temperature": 0.0},
    ]
    requests = [(prompt(9), o) for o in options]
    together = run(complete(engine(), *requests))
    for request, done in zip(requests, together, strict=True):
        (alone,) = run(complete(engine(), request))
        assert done.token_ids == alone.token_ids
        assert (done.finish_reason, done.stop) == (alone.finish_reason, alone.stop)
        assert done.logprobs == pytest.approx(alone.logprobs, abs=1e-5)
    assert together[1].token_ids == spoken[:7]
    assert together[1].finish_reason is FinishReason.LENGTH
    assert together[2].token_ids == spoken[: spoken.index(end) + 1]
    assert together[2].finish_reason is FinishReason.STOP
    assert together[3].finish_reason is FinishReason.STOP_STRING and together[3].stop == text


def test_which_architectures_have_their_own_decoder() -> None:
    for arch in ARCHITECTURES:
        kind = Decoder if arch in OWN else GenericBackend
        assert type(engine(arch)._backend) is kind


def test_it_is_an_engine_and_reads_the_models_context() -> None:
    local = engine()
    assert isinstance(local, Engine)
    assert local.context_length == 256
    assert engine(context_length=100).context_length == 100
    with pytest.raises(ValueError, match="max_position_embeddings"):
        engine(context_length=257)


def test_a_long_prompt_is_prefilled_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palestra.agents.engines.local.decoder._PREFILL_TOKENS", 24)
    prompts = [prompt(100), prompt(10), prompt(24)]
    done = run(complete(engine(), *((p, {"max_tokens": 4, "seed": 1}) for p in prompts)))
    for ids, completion in zip(prompts, done, strict=True):
        assert_exact("qwen3", ids, completion)


@pytest.mark.parametrize("arch", ["qwen3", "mistral-window", "gpt2"])
def test_a_later_turn_prefills_only_what_is_new(arch: str) -> None:
    async def talk(local: LocalEngine) -> list[Completion]:
        async with local:
            first = await local.generate(prompt(40), SamplingParams(max_tokens=30, seed=1))
            history = [*prompt(40), *first.token_ids, *prompt(9)]
            second = await local.generate(history, SamplingParams(max_tokens=10, seed=2))
            assert_exact(arch, history, second)
            return [first, second]

    cached = run(talk(engine(arch)))
    plain = run(talk(engine(arch, prefix_cache_bytes=0)))
    assert [c.token_ids for c in cached] == [c.token_ids for c in plain]
    assert [c.cached_tokens for c in plain] == [0, 0]
    # 40 + 30 - 1 tokens have keys and values; whole blocks of 16 of them are kept.
    assert [c.cached_tokens for c in cached] == [0, 64]


@pytest.mark.parametrize("arch", ["qwen3", "gpt2"])
def test_group_members_share_one_prefill(arch: str) -> None:
    requests = [(prompt(50), {"max_tokens": 8, "seed": seed}) for seed in range(6)]
    done = run(complete(engine(arch), *requests))
    assert sorted(c.cached_tokens for c in done) == [0, 50, 50, 50, 50, 50]
    assert len({c.token_ids for c in done}) == 6
    for completion in done:
        assert_exact(arch, prompt(50), completion)


def test_requests_of_the_same_moment_share_a_common_start() -> None:
    prompts = [[*prompt(64), *prompt(20, seed)] for seed in (1, 2, 3)]
    done = run(complete(engine(), *((p, {"max_tokens": 5, "seed": 1}) for p in prompts)))
    assert sorted(c.cached_tokens for c in done) == [0, 64, 64]
    for ids, completion in zip(prompts, done, strict=True):
        assert_exact("qwen3", ids, completion)


@pytest.mark.parametrize(("arch", "kept"), [("qwen3", 0), ("qwen3", 8), ("mistral-window", 0)])
def test_without_a_cache_nobody_waits_for_a_common_start(
    arch: str, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nothing to share: all are prefilled in one pass (8 bytes hold no block; that is
    found out in a pass of its own)."""
    prompts = [[*prompt(40), *prompt(5, seed)] for seed in range(32)]
    local = engine(arch, prefix_cache_bytes=kept)
    passes: list[int] = []
    prefill = local._backend.prefill

    def counted(segments: Sequence[Segment], **options: bool) -> torch.Tensor:
        passes.append(len(segments))
        return prefill(segments, **options)

    monkeypatch.setattr(local._backend, "prefill", counted)
    done = run(complete(local, *((p, {"max_tokens": 2, "seed": 1}) for p in prompts)))
    assert passes == ([1, 31] if kept else [32])
    assert_exact(arch, prompts[7], done[7])


def test_a_small_prefix_cache_forgets_the_oldest() -> None:
    local = engine(prefix_cache_bytes=6 * 16 * 2 * 2 * 2 * 16 * 4)  # six blocks

    async def work() -> list[int]:
        async with local:
            counts = []
            for seed in (1, 2, 1, 3, 4, 1):
                done = await local.generate(prompt(48, seed), SamplingParams(max_tokens=1))
                counts.append(done.cached_tokens)
            assert len(local._scheduler.prefix) == 6
            return counts

    # The third finds the first again and makes it the newest; 3 and 4 then push it out.
    assert run(work()) == [0, 0, 47, 0, 0, 0]


def test_more_requests_than_rows_come_in_turn() -> None:
    requests = [(prompt(20 + i), {"max_tokens": 5 + i, "seed": i}) for i in range(9)]
    done = run(complete(engine(max_batch=3), *requests))
    for (ids, params), completion in zip(requests, done, strict=True):
        ended = completion.finish_reason is FinishReason.STOP
        assert ended or len(completion.token_ids) == params["max_tokens"]
        assert_exact("qwen3", ids, completion)


def test_a_seed_gives_the_same_completion_alone_and_in_a_batch() -> None:
    requests = [(prompt(8 + i % 5), {"max_tokens": 20, "seed": i}) for i in range(12)]
    together = run(complete(engine(), *requests))
    for request, shared in zip(requests, together, strict=True):
        (alone,) = run(complete(engine(), request))
        assert alone.token_ids == shared.token_ids
        assert list(alone.logprobs) == pytest.approx(shared.logprobs, abs=1e-4)


def test_unseeded_requests_follow_the_engines_seed() -> None:
    def draw(seed: int) -> tuple[int, ...]:
        done: Completion = run(complete(engine(seed=seed), (prompt(8), {"max_tokens": 12})))[0]
        return done.token_ids

    assert draw(1) == draw(1) != draw(2)


@pytest.mark.parametrize("vocab", [400, 9000])
def test_frequencies_follow_the_models_distribution(vocab: int) -> None:
    """Chi-square over 4000 fixed seeds, in a vocabulary of one tile and of two."""
    ids, draws = prompt(6), 4000
    params = [(ids, {"max_tokens": 1, "seed": s, "temperature": 2.0}) for s in range(draws)]
    done = run(complete(engine(vocab=vocab), *params))
    with torch.no_grad():
        logits = model("qwen3", vocab)(torch.tensor([ids])).logits[0, -1] / 2.0
    expected = torch.softmax(logits.double(), -1) * draws
    counts = torch.bincount(torch.tensor([c.token_ids[0] for c in done]), minlength=vocab)
    # Cells of at least 20 expected draws, from the most likely token down.
    order = expected.argsort(descending=True)
    cells = (expected[order].cumsum(0) / 20).long().clamp(max=60)
    want = torch.zeros(61, dtype=torch.float64).index_add_(0, cells, expected[order])
    got = torch.zeros(61, dtype=torch.float64).index_add_(0, cells, counts[order].double())
    used = want > 5
    chi_square = ((got - want)[used] ** 2 / want[used]).sum().item()
    freedom = int(used.sum()) - 1
    # Wilson and Hilferty: the cube root of chi-square / freedom is close to normal.
    z = ((chi_square / freedom) ** (1 / 3) - 1 + 2 / (9 * freedom)) / math.sqrt(2 / (9 * freedom))
    assert abs(z) < 4


def test_top_k_and_top_p_stay_inside_and_renormalise() -> None:
    ids = prompt(6)
    with torch.no_grad():
        logprobs = torch.log_softmax(model()(torch.tensor([ids])).logits[0, -1], -1)
    order = logprobs.argsort(descending=True).tolist()
    kept = logprobs[order[:4]] - logprobs[order[:4]].logsumexp(0)
    requests = [(ids, {"max_tokens": 1, "seed": s, "top_k": 4}) for s in range(60)]
    for done in run(complete(engine(), *requests)):
        place = order[:4].index(done.token_ids[0])
        assert done.logprobs[0] == pytest.approx(kept[place].item(), abs=1e-4)
    top_p = logprobs[order[:2]].exp().sum().item() + 1e-3  # two are not enough, three are
    requests = [(ids, {"max_tokens": 1, "seed": s, "top_p": top_p}) for s in range(60)]
    seen = {done.token_ids[0] for done in run(complete(engine(), *requests))}
    assert seen == set(order[:3])


def test_greedy_and_sampled_rows_mix() -> None:
    kinds = [{"temperature": 0.0}, {"seed": 1}, {"seed": 1, "temperature": 1.7}]
    requests = [(prompt(12), {"max_tokens": 9} | kind) for kind in kinds]
    done = run(complete(engine(), *requests))
    for (_, params), completion in zip(requests, done, strict=True):
        assert_exact("qwen3", prompt(12), completion, params.get("temperature") or 1.0)


def test_stop_strings_end_at_the_token_that_completes_them() -> None:
    (free,) = run(complete(engine(), (prompt(12), {"max_tokens": 40, "seed": 5})))
    decode = tiny_tokenizer().decode
    texts = [decode(free.token_ids[: i + 1]) for i in range(40)]
    stop = texts[30][-3:]
    end = next(i for i, text in enumerate(texts) if stop in text) + 1
    params = {"max_tokens": 40, "seed": 5, "stop": ("\u20acnever", stop)}
    (done,) = run(complete(engine(), (prompt(12), params)))
    assert done.finish_reason is FinishReason.STOP_STRING
    assert done.stop == stop
    assert done.token_ids == free.token_ids[:end]


def test_the_context_limits_prompt_and_completion() -> None:
    async def work() -> None:
        async with engine(context_length=32) as local:
            with pytest.raises(ContextOverflow, match="32"):
                await local.generate(prompt(32), SamplingParams())
            done = await local.generate(prompt(30), SamplingParams(max_tokens=9))
            assert len(done.token_ids) == 2
            assert done.finish_reason is FinishReason.LENGTH

    run(work())


@pytest.mark.parametrize("threads", [1, 8])
def test_bfloat16_weights_stay_close_to_float32(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The number of threads decides the type of keys and values.
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)

    async def work() -> None:
        async with engine(dtype=torch.bfloat16) as local:
            scores = await local.logprobs(prompt(60))
            exact = hf_logprobs("qwen3", prompt(60))
            gaps = [abs(a - b) for a, b in zip(scores, exact, strict=True)]
            assert sum(gaps) / len(gaps) < 0.1
            done = await local.generate(prompt(20), SamplingParams(max_tokens=10, seed=1))
            scored = await local.logprobs([*prompt(20), *done.token_ids])
            assert list(done.logprobs) == pytest.approx(scored[19:], abs=0.1)

    run(work())
