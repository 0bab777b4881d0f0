"""The local engine's worker: cancelling, new weights, failing, closing, determinism."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from contextvars import copy_context
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from local_models import assert_exact, engine, model, prompt, run  # noqa: E402

from palestra.agents.engines.base import EngineError, SamplingParams  # noqa: E402
from palestra.agents.engines.local import LocalEngine  # noqa: E402
from palestra.envs.types import Completion  # noqa: E402


def test_a_cancelled_request_frees_its_row() -> None:
    async def work() -> None:
        async with engine(max_batch=1) as local:
            endless = SamplingParams(max_tokens=200, seed=1)
            long = asyncio.create_task(local.generate(prompt(9), endless))
            waiting = asyncio.create_task(local.generate(prompt(5), endless))
            while not local._scheduler.active:
                await asyncio.sleep(0.001)
            next_in_turn = asyncio.create_task(
                local.generate(prompt(7), SamplingParams(max_tokens=3))
            )
            long.cancel()
            waiting.cancel()
            assert len((await next_in_turn).token_ids) == 3
            assert long.cancelled() and waiting.cancelled()
            assert local._scheduler.idle

    run(work())


@pytest.mark.parametrize("arch", ["qwen3", "qwen2-tied", "gpt2"])
def test_new_weights_replace_the_old_after_those_in_flight(arch: str) -> None:
    other = model(arch, seed=1)
    params = SamplingParams(max_tokens=30, temperature=0.0)
    weights = dict(other.named_parameters())

    async def work() -> None:
        async with engine(arch) as local:
            before, _, after = await asyncio.gather(
                local.generate(prompt(20), params),
                local.load_weights(7, weights),
                local.generate(prompt(20), params),
            )
            assert (before.policy_version, after.policy_version) == (0, 7)
            assert after.cached_tokens == 0
            assert_exact(arch, prompt(20), before)
            full = torch.tensor([[*prompt(20), *after.token_ids]])
            with torch.no_grad():
                greedy = other(full).logits[0, 19:-1].argmax(-1).tolist()
            assert list(after.token_ids) == greedy

    run(work())
    # The caller's model is never touched.
    assert not torch.equal(next(model(arch).parameters()), next(other.parameters()))


@pytest.mark.parametrize("arch", ["qwen3", "gpt2"])
def test_wrong_weights_are_refused_by_name(arch: str) -> None:
    good = dict(model(arch).named_parameters())
    name = next(n for n in good if n.endswith(("mlp.down_proj.weight", "c_fc.weight")))

    async def work() -> None:
        async with engine(arch) as local:
            with pytest.raises(ValueError, match="did you mean"):
                await local.load_weights(1, good | {name + "s": good[name]})
            with pytest.raises(ValueError, match="must have shape"):
                await local.load_weights(1, good | {name: good[name][:1]})
            with pytest.raises(ValueError, match="missing"):
                await local.load_weights(1, {n: t for n, t in good.items() if n != name})
            assert local.policy_version == 0

    run(work())


def test_deterministic_mode_does_not_depend_on_tool_timing() -> None:
    """Three episodes of three turns with tools of different speed, twice in other orders."""

    async def episode(local: LocalEngine, number: int, delays: list[float]) -> list[Completion]:
        done: list[Completion] = []
        ids = prompt(16 + number, number)
        with local.episode():
            for turn in range(3):
                params = SamplingParams(max_tokens=6 + 3 * number, seed=10 * number + turn)
                done.append(await local.generate(ids, params))
                await asyncio.sleep(delays[turn])  # the tool
                ids = [*ids, *done[-1].token_ids, *prompt(5, turn)]
        return done

    async def work(order: list[int], scale: float) -> list[list[Completion]]:
        async with engine(deterministic=True) as local:
            tasks = {
                n: asyncio.create_task(episode(local, n, [scale * (n + 1), 0.0, scale * (3 - n)]))
                for n in order
            }
            return [await tasks[n] for n in sorted(tasks)]

    one, other = run(work([0, 1, 2], 0.0)), run(work([2, 0, 1], 0.02))
    for mine, theirs in zip(one, other, strict=True):
        assert [c.token_ids for c in mine] == [c.token_ids for c in theirs]
        assert [c.logprobs for c in mine] == [c.logprobs for c in theirs]  # to the last bit


def test_what_an_episode_asks_at_once_does_not_stand_for_another_episode() -> None:
    """One episode asks three things at once (a critic, say) while another one is at its tool: the
    engine waits for that one, too, and all four requests share one prefill."""

    async def work() -> list[int]:
        async with engine(deterministic=True) as local:
            admitted: list[int] = []
            admit = local._scheduler._admit

            def spy() -> None:
                if local._scheduler.waiting:
                    admitted.append(len(local._scheduler.waiting))
                admit()

            local._scheduler._admit = spy  # type: ignore[method-assign]
            params = SamplingParams(max_tokens=4, seed=1)

            async def asks(count: int, delay: float) -> None:
                await asyncio.sleep(delay)
                await asyncio.gather(*(local.generate(prompt(9 + i), params) for i in range(count)))

            with ExitStack() as live:
                contexts = [copy_context(), copy_context()]
                for own in contexts:
                    own.run(live.enter_context, local.episode())
                work = zip(contexts, [asks(3, 0.0), asks(1, 0.05)], strict=True)
                await asyncio.gather(*(asyncio.create_task(w, context=own) for own, w in work))
            return admitted

    assert run(work()) == [4]


def test_an_error_in_the_worker_reaches_every_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        async with engine() as local:
            backend = local._backend
            with monkeypatch.context() as patch:

                def broken(*_: Any) -> None:
                    raise RuntimeError("out of memory")

                patch.setattr(backend, "decode", broken)
                done = await asyncio.gather(
                    *(local.generate(prompt(5 + i), SamplingParams()) for i in range(3)),
                    return_exceptions=True,
                )
                assert all(isinstance(e, EngineError) for e in done)
                assert "out of memory" in str(done[0])
            assert (await local.generate(prompt(5), SamplingParams(max_tokens=2))).token_ids

    run(work())


def test_an_error_in_dropping_a_cancelled_request_reaches_every_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None:
        async with engine() as local:
            with monkeypatch.context() as patch:

                def broken(*_: Any) -> None:
                    raise RuntimeError("out of memory")

                patch.setattr(local._scheduler.prefix, "store", broken)
                long = SamplingParams(max_tokens=200, seed=1)
                doomed, other = (
                    asyncio.create_task(local.generate(prompt(n), long)) for n in (9, 15)
                )
                while len(local._scheduler.active) < 2:
                    await asyncio.sleep(0.001)
                doomed.cancel()
                with pytest.raises(EngineError, match="out of memory"):
                    await other
            assert (await local.generate(prompt(5), SamplingParams(max_tokens=2))).token_ids

    run(work())


def test_a_dead_worker_takes_everything_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What no boundary catches ends the thread: nobody may wait for it any more."""

    async def work() -> None:
        async with engine() as local:

            def dies(*_: Any) -> None:
                raise SystemExit("killed")

            monkeypatch.setattr(local._backend, "decode", dies)
            waiting = [local.generate(prompt(5 + i), SamplingParams()) for i in range(3)]
            weights = dict(model().named_parameters())
            done = await asyncio.gather(
                *waiting, local.load_weights(1, weights), return_exceptions=True
            )
            assert all(isinstance(e, EngineError) and "killed" in str(e) for e in done)
            with pytest.raises(EngineError, match=r"worker died .*killed"):
                await local.generate(prompt(5), SamplingParams())

    run(work())


def test_closing_ends_what_is_in_flight() -> None:
    async def work() -> None:
        local = engine()
        task = asyncio.create_task(local.generate(prompt(5), SamplingParams(max_tokens=250)))
        await asyncio.sleep(0)
        await local.aclose()
        await local.aclose()
        with pytest.raises(EngineError, match="closed"):
            await task
        with pytest.raises(EngineError, match="closed"):
            await local.generate(prompt(5), SamplingParams())

    run(work())
