"""What every engine must do: the executable form of `agents/engines/base.py`.

Each test runs on the scripted, the local and the vLLM engine. One engine of each kind
serves the whole file, in one event loop, as in a training run.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator

import pytest
from engine_cases import CASES, MARKS, Case
from fakes import CONTEXT

from palestra.agents.engines.base import ContextOverflow, Engine, EngineError, SamplingParams
from palestra.envs.types import Completion, FinishReason


@pytest.fixture(scope="module", params=[pytest.param(k, marks=MARKS[k]) for k in CASES])
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Case]:
    case = CASES[request.param](tmp_path_factory)
    yield case
    case.run(case.engine.aclose())
    case.run(case.engine.aclose())
    with pytest.raises(EngineError):
        case.generate(case.prompt())
    case.runner.close()


def test_is_an_engine(case: Case) -> None:
    assert isinstance(case.engine, Engine)
    assert case.engine.name == case.kind
    assert case.engine.context_length == CONTEXT


def test_ids_and_logprobs_align(case: Case) -> None:
    prompt = case.prompt()
    completion = case.generate(prompt, seed=1, max_tokens=30)
    assert 0 < len(completion.token_ids) == len(completion.logprobs) <= 30
    assert all(lp <= 0 and math.isfinite(lp) for lp in completion.logprobs)
    assert completion.prompt_tokens == len(prompt)
    assert completion.policy_version == case.engine.policy_version


def test_greedy_is_deterministic(case: Case) -> None:
    first = case.generate(case.prompt(), temperature=0, max_tokens=30)
    again = case.generate(case.prompt(), temperature=0, max_tokens=30)
    assert first.token_ids == again.token_ids
    case.assert_close(first.logprobs, again.logprobs)


def test_greedy_reports_the_untempered_distribution(case: Case) -> None:
    prompt = case.prompt()
    completion = case.generate(prompt, temperature=0, max_tokens=10)
    scores = case.run(case.engine.logprobs([*prompt, *completion.token_ids]))
    case.assert_close(completion.logprobs, scores[len(prompt) - 1 :])
    assert min(completion.logprobs) < -0.01


def test_a_seed_fixes_the_completion_whatever_else_runs(case: Case) -> None:
    params = SamplingParams(seed=7, max_tokens=25)
    alone = case.run(case.engine.generate(case.prompt(), params))

    async def in_company() -> list[Completion]:
        crowd = [
            case.engine.generate(case.prompt(f"Question {i}"), SamplingParams(max_tokens=10 + i))
            for i in range(6)
        ]
        crowd.insert(3, case.engine.generate(case.prompt(), params))
        return await asyncio.gather(*crowd)

    accompanied = case.run(in_company())[3]
    assert accompanied.token_ids == alone.token_ids
    case.assert_close(accompanied.logprobs, alone.logprobs)
    other = case.generate(case.prompt(), seed=8, max_tokens=25)
    assert other.token_ids != alone.token_ids


def test_without_a_seed_completions_differ(case: Case) -> None:
    drawn = {case.generate(case.prompt(), max_tokens=25).token_ids for _ in range(4)}
    assert len(drawn) > 1


def test_max_tokens_ends_with_length(case: Case) -> None:
    completion = case.generate(case.prompt(), temperature=0, max_tokens=5)
    assert len(completion.token_ids) == 5
    assert completion.finish_reason is FinishReason.LENGTH
    assert completion.stop is None


def test_end_of_turn_is_kept_and_ends_with_stop(case: Case) -> None:
    eos = case.engine.tokenizer.eos_token_id
    stopped = 0
    for seed in range(12):
        completion = case.generate(case.prompt(), seed=seed, max_tokens=200)
        assert eos not in completion.token_ids[:-1]
        if completion.finish_reason is FinishReason.STOP:
            assert completion.token_ids[-1] == eos
            stopped += 1
        else:
            assert completion.finish_reason is FinishReason.LENGTH
            assert completion.token_ids[-1] != eos
    assert stopped > 0


def test_stop_token_ids_end_with_stop(case: Case) -> None:
    free = case.generate(case.prompt(), temperature=0, max_tokens=20)
    target = free.token_ids[7]
    end = free.token_ids.index(target) + 1
    completion = case.generate(
        case.prompt(), temperature=0, max_tokens=20, stop_token_ids=(target,)
    )
    assert completion.finish_reason is FinishReason.STOP
    assert completion.token_ids == free.token_ids[:end]
    case.assert_close(completion.logprobs, free.logprobs[:end])


def test_a_stop_string_across_tokens_keeps_all_of_them(case: Case) -> None:
    seed, start, stop, free = a_text_of_two_tokens(case)
    completion = case.generate(case.prompt(), seed=seed, max_tokens=40, stop=("never", stop))
    assert completion.finish_reason is FinishReason.STOP_STRING
    assert completion.stop == stop
    assert completion.token_ids == free.token_ids[: start + 2]
    case.assert_close(completion.logprobs, free.logprobs[: start + 2])


def a_text_of_two_tokens(case: Case) -> tuple[int, int, str, Completion]:
    """(seed, i, text, completion) where tokens i and i + 1 complete `text` for the first time."""
    decode = case.engine.tokenizer.decode
    for seed in range(40):
        completion = case.generate(case.prompt(), seed=seed, max_tokens=40)
        ids = completion.token_ids
        for i in range(4, len(ids) - 2):
            text, before = decode(ids[i : i + 2]), decode(ids[: i + 1])
            complete = "\ufffd" not in text and decode(ids[: i + 2]).endswith(text)
            if complete and len(text) > 1 and text not in before:
                return seed, i, text, completion
    raise AssertionError("no completion holds a text of two tokens: make the model less random")


def test_a_stop_string_that_never_comes_changes_nothing(case: Case) -> None:
    free = case.generate(case.prompt(), seed=3, max_tokens=20)
    completion = case.generate(case.prompt(), seed=3, max_tokens=20, stop=("never comes",))
    assert completion.token_ids == free.token_ids
    assert completion.finish_reason is free.finish_reason
    assert completion.stop is None


def test_an_empty_prompt_is_refused(case: Case) -> None:
    with pytest.raises(ValueError, match="empty"):
        case.generate([])


def filled(case: Case, length: int) -> list[int]:
    """A prompt of exactly `length` tokens that still opens an assistant turn."""
    prompt = case.prompt("x")
    letter = case.engine.tokenizer.encode("x", add_special_tokens=False)
    at = prompt.index(letter[0])
    return [*prompt[:at], *letter * (length - len(prompt)), *prompt[at:]]


def test_a_full_context_overflows(case: Case) -> None:
    for length in (CONTEXT, CONTEXT + 10):
        with pytest.raises(ContextOverflow, match=str(length)):
            case.generate(filled(case, length))


def test_a_nearly_full_context_ends_with_length(case: Case) -> None:
    for room in (1, 3):
        prompt = filled(case, CONTEXT - room)
        completion = case.generate(prompt, temperature=0, max_tokens=50)
        assert len(completion.token_ids) == room
        assert completion.finish_reason is FinishReason.LENGTH
        scores = case.run(case.engine.logprobs([*prompt, *completion.token_ids]))
        assert len(scores) == CONTEXT - 1
        case.assert_close(completion.logprobs, scores[len(prompt) - 1 :])


def test_twenty_concurrent_requests_equal_their_solo_runs(case: Case) -> None:
    prompts = [case.prompt("Question " + "?" * (i % 7) + str(i)) for i in range(20)]
    params = [
        SamplingParams(seed=i, max_tokens=10 + i, temperature=0.0 if i % 4 == 0 else 1.0)
        for i in range(20)
    ]

    async def together() -> list[Completion]:
        pairs = zip(prompts, params, strict=True)
        return await asyncio.gather(*(case.engine.generate(p, s) for p, s in pairs))

    for prompt, param, joint in zip(prompts, params, case.run(together()), strict=True):
        solo = case.run(case.engine.generate(prompt, param))
        assert joint.token_ids == solo.token_ids
        assert joint.finish_reason is solo.finish_reason
        case.assert_close(joint.logprobs, solo.logprobs)


def test_cancellation_leaves_the_engine_usable(case: Case) -> None:
    before = case.generate(case.prompt(), temperature=0, max_tokens=12)

    async def cancel_some() -> None:
        work = [
            asyncio.create_task(
                case.engine.generate(case.prompt(str(i)), SamplingParams(max_tokens=200))
            )
            for i in range(4)
        ]
        await asyncio.sleep(0)
        work[0].cancel()
        if case.kind != "scripted":  # whose requests are over in one go
            await asyncio.sleep(0.02)
        work[1].cancel()
        results = await asyncio.gather(*work, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError)
        assert all(isinstance(r, Completion) for r in results[2:])

    case.run(cancel_some())
    after = case.generate(case.prompt(), temperature=0, max_tokens=12)
    assert after.token_ids == before.token_ids
    version = case.engine.policy_version
    # A load waits for requests in flight: a cancelled one must not count as such.
    case.run(case.engine.load_weights(version + 1, case.weights))


@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.5])
def test_logprobs_agree_with_generate(case: Case, temperature: float) -> None:
    prompt = case.prompt()
    completion = case.generate(prompt, seed=2, max_tokens=30, temperature=temperature)
    ids = [*prompt, *completion.token_ids]
    scores = case.run(case.engine.logprobs(ids, temperature))
    assert len(scores) == len(ids) - 1
    case.assert_close(completion.logprobs, scores[len(prompt) - 1 :])


def test_temperature_changes_logprobs(case: Case) -> None:
    prompt = case.prompt()
    cold = case.generate(prompt, seed=5, max_tokens=30, temperature=0.3)
    hot = case.run(case.engine.logprobs([*prompt, *cold.token_ids], 1.5))[len(prompt) - 1 :]
    # A sample from the colder distribution is likelier under it than under the hotter one.
    assert sum(cold.logprobs) > sum(hot) + 1


def test_truncated_sampling_is_accepted_and_renormalised(case: Case) -> None:
    prompt = case.prompt()
    for options in ({"top_k": 1}, {"top_p": 1e-6}):
        completion = case.generate(prompt, seed=4, max_tokens=10, **options)
        greedy = case.generate(prompt, temperature=0, max_tokens=10)
        assert completion.token_ids == greedy.token_ids
        case.assert_close(completion.logprobs, [0.0] * len(completion.logprobs))
    both = case.generate(prompt, seed=4, max_tokens=10, top_k=20, top_p=0.9)
    ids = [*prompt, *both.token_ids]
    whole = case.run(case.engine.logprobs(ids))[len(prompt) - 1 :]
    assert all(cut > full for cut, full in zip(both.logprobs, whole, strict=True))


def test_continuing_its_own_completion_gives_the_same_tokens(case: Case) -> None:
    prompt = case.prompt("A somewhat longer question, so that there is something to keep: 1 + 1?")
    whole = case.generate(prompt, temperature=0, max_tokens=40)
    assert len(whole.token_ids) == 40
    piece = whole.token_ids[:24]
    rest = case.generate([*prompt, *piece], temperature=0, max_tokens=16)
    assert rest.token_ids == whole.token_ids[24:]
    case.assert_close(rest.logprobs, whole.logprobs[24:])
    if case.caches:
        assert 0 < rest.cached_tokens < rest.prompt_tokens


def test_a_cleared_cache_makes_the_engine_as_new(case: Case) -> None:
    prompt = case.prompt("A somewhat longer question, so that there is something to keep: 1 + 1?")
    before = case.generate(prompt, temperature=0, max_tokens=12)

    async def clear_while_generating() -> Completion:
        params = SamplingParams(temperature=0, max_tokens=12)
        early = asyncio.create_task(case.engine.generate(prompt, params))
        await asyncio.sleep(0)
        await case.engine.clear_cache()
        return await early

    version = case.engine.policy_version
    early = case.run(clear_while_generating())
    after = case.generate(prompt, temperature=0, max_tokens=12)
    assert after.cached_tokens == 0
    assert before.token_ids == early.token_ids == after.token_ids
    assert case.engine.policy_version == version
    case.assert_close(after.logprobs, before.logprobs)


def test_new_weights_speak_from_the_first_token_on(case: Case) -> None:
    engine, prompt = case.engine, case.prompt()
    version = engine.policy_version
    before = case.generate(prompt, temperature=0, max_tokens=20)
    old_scores = case.run(engine.logprobs([*prompt, *before.token_ids]))
    case.run(engine.load_weights(version + 5, case.other_weights))
    try:
        assert engine.policy_version == version + 5
        after = case.generate(prompt, temperature=0, max_tokens=20)
        assert after.policy_version == version + 5
        assert after.token_ids[0] != before.token_ids[0]
        new_scores = case.run(engine.logprobs([*prompt, *after.token_ids]))
        case.assert_close(after.logprobs, new_scores[len(prompt) - 1 :])
    finally:
        case.run(engine.load_weights(version + 6, case.weights))
    again = case.generate(prompt, temperature=0, max_tokens=20)
    assert again.token_ids == before.token_ids
    assert again.policy_version == version + 6
    case.assert_close(case.run(engine.logprobs([*prompt, *before.token_ids])), old_scores)


def test_requests_in_flight_finish_on_the_old_weights(case: Case) -> None:
    engine, prompt = case.engine, case.prompt()
    version = engine.policy_version
    alone = case.generate(prompt, temperature=0, max_tokens=60)

    async def load_while_generating() -> tuple[Completion, Completion]:
        params = SamplingParams(temperature=0, max_tokens=60)
        early = asyncio.create_task(engine.generate(prompt, params))
        await asyncio.sleep(0 if case.kind == "scripted" else 0.01)
        load = asyncio.create_task(engine.load_weights(version + 1, case.other_weights))
        await asyncio.sleep(0)
        late = asyncio.create_task(engine.generate(prompt, params))
        await load
        return await early, await late

    try:
        early, late = case.run(load_while_generating())
    finally:
        case.run(engine.load_weights(version + 2, case.weights))
    assert (early.policy_version, late.policy_version) == (version, version + 1)
    assert early.token_ids == alone.token_ids
    assert late.token_ids[0] != alone.token_ids[0]
