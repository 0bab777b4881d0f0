"""An engine as simulated user, as critic and as writer of warm-start data."""

import asyncio

import pytest

from palestra.agents.agent import Agent
from palestra.agents.engines.base import SamplingParams
from palestra.agents.engines.scripted import ScriptedEngine
from palestra.agents.rollout import EnvPool, collect
from palestra.agents.users import EngineChat
from palestra.envs.chat import Chat, write_warm_start
from palestra.envs.chat.users import ModelUser
from palestra.envs.rewards.cache import DiskCache
from palestra.envs.rewards.judge import Judge
from palestra.envs.rewards.protocol import JudgeError
from palestra.envs.rewards.rubric import ITEM, Item, by_judge, by_probability
from palestra.envs.rewards.tournament import PAIR, compared_by_judge
from palestra.envs.rubric import Rubric
from palestra.envs.types import Message, Task

ASK = (Message("user", "Hello?"),)
TASK = Task("t", ASK, metadata={"rubric": [{"name": "kind", "text": "Is kind."}]})


def test_answers_are_whole_or_said_to_be_cut_off():
    whole = asyncio.run(EngineChat(ScriptedEngine(["Good day."])).complete(ASK))
    assert (whole.text, whole.finished) == ("Good day.", True)
    short = EngineChat(ScriptedEngine(["Good day."]), SamplingParams(max_tokens=4))
    cut = asyncio.run(short.complete(ASK))
    assert (cut.text, cut.finished) == ("Good", False)


def test_a_conversation_that_does_not_fit_is_a_judge_that_failed():
    chat = EngineChat(ScriptedEngine(["x"], context_length=8))
    with pytest.raises(JudgeError, match="ContextOverflow"):
        asyncio.run(chat.complete(ASK))


def test_samples_differ_and_repeat():
    chat = EngineChat(
        ScriptedEngine(["A longer reply."], probability=0.5), SamplingParams(max_tokens=20)
    )

    async def texts():
        return [(await chat.complete(ASK, sample=n)).text for n in (0, 1, 0)]

    first, second, again = asyncio.run(texts())
    assert first == again != second


def test_a_simulated_user_talks_until_it_has_enough():
    def persona(text):
        return "[END]" if "Second answer" in text else "Tell me more."

    env = Chat(
        tasks=[Task("t", ASK)],
        reward=lambda task, messages: float(len(messages) == 4),
        user=EngineChat(ScriptedEngine(persona)),
    )
    env.reset(seed=0)
    first = env.step("<think>hidden</think><response>First answer.</response>")
    assert first[0] == [Message("user", "Tell me more.")] and not first[2]
    last = env.step("<think>hidden</think><response>Second answer.</response>")
    assert last[2] and last[1] == 1.0


def test_a_lost_user_makes_the_episode_invalid():
    user = ModelUser(EngineChat(ScriptedEngine(["x"], context_length=8)))
    env = Chat(tasks=[Task("t", ASK)], reward=lambda task, messages: 1.0, user=user)
    env.reset(seed=0)
    assert "ContextOverflow" in env.step("<response>Hm.</response>")[4]["failure"].message


def verdict(text):
    """A policy that greets kindly, and as a critic finds that kind."""
    if "criterion" in text:
        return '{"score": 1}' if "Dear" in text else '{"score": 0}'
    if "Which answer is better" in text:
        return '{"score": 0.5}'
    return "Dear friend, hello."


def test_the_policy_is_its_own_critic_over_one_engine():
    engine = ScriptedEngine(verdict)
    chat = EngineChat(engine)
    options = {
        "tasks": [TASK],
        "critic": by_judge(Judge(chat, ITEM)),
        "compare": compared_by_judge(Judge(chat, PAIR)),
        "grading": "both",
    }
    pool = EnvPool(lambda: Rubric(**options))
    (group,) = asyncio.run(collect(pool, Agent(engine), [TASK], group_size=3))
    pool.close()
    assert [t.reward for t in group.trajectories] == [0.75] * 3  # all items met, all tied
    assert all(t.reward_parts["win rate"] == 0.5 for t in group.trajectories)


def test_two_engines_share_no_verdicts(tmp_path):
    """Nor does a later run with the first's cache find those of its policy."""
    cache = DiskCache(tmp_path / "verdicts.db")
    scores = []
    for score in (3, 9):
        chat = EngineChat(ScriptedEngine([f'{{"score": {score}}}']))
        judge = Judge(chat, cache=cache)
        for _ in range(2):
            scores.append(asyncio.run(judge(TASK, (*ASK, Message("assistant", "x")))).reward)
    assert scores == [0.3, 0.3, 0.9, 0.9]
    cache.close()


def test_verdicts_are_scored_by_the_engine():
    def critic(text):
        return "Yes" if "Dear" in text else "No"

    check = by_probability(EngineChat(ScriptedEngine(critic, probability=0.9)).verdicts())
    item = Item("kind", "Is kind.")
    yes, no = (asyncio.run(check(item, "Hello?", answer)) for answer in ("Dear you.", "Go."))
    assert no < 0.01 < 0.99 < yes


def test_an_engine_given_as_critic_is_asked_for_the_likelihood_of_its_verdicts():
    def critic(text):
        return "Yes" if "Dear" in text else "No"

    chat = EngineChat(ScriptedEngine(critic, probability=0.9))
    env = Rubric(tasks=[TASK], rubrics=["task"], critic=chat)
    for answer, least, most in (("Dear you.", 0.99, 1), ("Go.", 0, 0.01)):
        env.reset(options={"task": TASK})
        assert least < env.step(answer)[1] < most


def test_an_engine_writes_warm_start_data(tmp_path):
    reply = "<think>Greet.</think><response>Good day.</response>"
    chat = EngineChat(ScriptedEngine([reply]))
    done = asyncio.run(write_warm_start(tmp_path / "warm.jsonl", [TASK], chat.reply))
    assert (done.written, done.dropped) == (1, 0)
