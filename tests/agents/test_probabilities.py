"""What a policy says it would answer, and figures made of that."""

import asyncio
import math

import pytest
import torch
from fakes import tiny_model, tiny_tokenizer

import palestra
from palestra.agents.agent import Agent
from palestra.agents.engines.base import SamplingParams
from palestra.agents.engines.local import LocalEngine
from palestra.agents.engines.scripted import ScriptedEngine
from palestra.agents.evaluation import measures
from palestra.agents.matches import match
from palestra.agents.rollout import EnvPool
from palestra.envs.kuhn_poker import (
    FIRST,
    INFO_SETS,
    SECOND,
    equilibrium,
    exploitability,
    legal,
    prompt,
)
from palestra.envs.types import Message


def kuhn():
    return palestra.make("palestra/KuhnPoker-v0", rules=False).unwrapped


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


def agent(model, **sampling):
    return Agent(LocalEngine(model, tiny_tokenizer()), SamplingParams(**sampling))


def by_hand(model, text, reply, temperature=1.0):
    """The probability of `reply` and the end token after a rendered conversation."""
    tokenizer = tiny_tokenizer()
    start = tokenizer.encode(text, add_special_tokens=False)
    ids = [*start, *tokenizer.encode(reply, add_special_tokens=False), tokenizer.eos_token_id]
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0] / temperature
    scores = logits.log_softmax(-1)
    return math.exp(sum(scores[t - 1, ids[t]].item() for t in range(len(start), len(ids))))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_probabilities_are_those_of_the_model(model, temperature):
    messages = [Message("user", "What is 12?")]
    conversation = [m.to_dict() for m in messages]
    text = tiny_tokenizer().apply_chat_template(
        conversation, tokenize=False, add_generation_prompt=True
    )
    asked = agent(model, temperature=temperature)
    found = asyncio.run(asked.probabilities(kuhn(), messages, ["42", "[check]"]))
    expected = [by_hand(model, text, reply, temperature) for reply in ("42", "[check]")]
    assert found == pytest.approx(expected, rel=1e-3)


def test_a_conversation_has_the_ids_that_were_played():
    """The second decision of a player is asked for in the very context that it had in a game."""
    first, second = (Agent(ScriptedEngine([*r])) for r in (("[check]", "[call]"), ("[bet]",)))
    env = kuhn()
    task = env.tasks[0]
    sides = asyncio.run(match(env, {FIRST: first, SECOND: second}, task))
    played = sides[FIRST]
    last = len(played.mask) - played.turns[1].num_sampled
    messages, (_, call) = env.question(task.metadata["cards"][0], "cb")
    renderer = first.renderer(env)
    assert renderer.conversation(messages) == list(played.token_ids[:last])
    assert renderer.turn(call) == list(played.token_ids[last:])


def test_greedy_policies_are_certain(model):
    player = agent(model, temperature=0, max_tokens=20)
    env = kuhn()
    messages = [Message("user", "What is 12?")]
    renderer = player.renderer(env)
    params = player.sampling
    completion, text = asyncio.run(
        player.act(
            env, renderer, renderer.conversation(messages), max_tokens=params.max_tokens, seed=0
        )
    )
    found = asyncio.run(player.probabilities(env, messages, [text, text + "x"]))
    if completion.finish_reason == "stop_token":
        assert found == pytest.approx([1.0, 0.0])


def test_exploitability_of_a_model_is_that_of_its_table(model):
    """The model's own probabilities at all twelve information sets, computed by hand."""
    policy, bare = {}, 0.0
    for card, history in INFO_SETS:
        before = [("user", prompt(card, "")), ("assistant", "[check]")] if history == "cb" else []
        talk = [*before, ("user", prompt(card, history))]
        text = tiny_tokenizer().apply_chat_template(
            [{"role": role, "content": content} for role, content in talk],
            tokenize=False,
            add_generation_prompt=True,
        )
        careful, bold = (by_hand(model, text, f"[{word}]") for word in legal(history))
        policy[card, history] = bold / (careful + bold)
        bare += (careful + bold) / 12
    found = asyncio.run(measures(EnvPool(kuhn), agent(model)))
    assert found["exploitability"] == pytest.approx(exploitability(policy), rel=1e-3)
    assert found["bare moves"] == pytest.approx(bare, rel=1e-2)


@pytest.mark.parametrize(("table", "expected"), [("equilibrium", 0.0), ("uniform", 11 / 24)])
def test_known_policies_have_their_known_exploitability(table, expected):
    policy = equilibrium() if table == "equilibrium" else dict.fromkeys(INFO_SETS, 0.5)
    env = kuhn()
    sets = {tuple(env.question(*key)[0]): policy[key] for key in INFO_SETS}

    async def ask(messages, replies):
        bold = sets[tuple(messages)]
        assert (len(replies) == 2 and "check" in replies[0] + replies[1]) or "call" in replies[1]
        return [0.9 * (1 - bold), 0.9 * bold]  # a tenth of the time it writes something else

    found = asyncio.run(env.measure(ask))
    assert found["exploitability"] == pytest.approx(expected, abs=1e-12)
    assert found["bare moves"] == pytest.approx(0.9)
