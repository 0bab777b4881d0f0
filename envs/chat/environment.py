"""`palestra/Chat-v0`: open chat judged by a reward model, after RLMT (arXiv 2509.20357).

The agent thinks, then answers; the reward r(x, y) sees the prompt x and the answer y, never the
thoughts z. Reading the answer off the reply is the environment's business, so that no reward
can be handed thoughts by mistake.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from ..core import ToolEnv
from ..driving import maybe_await
from ..episode import Grade, Reply
from ..rewards.endpoint import Model, chat_model
from ..rewards.judge import Judge
from ..rewards.protocol import Reward, grade_with
from ..rewards.reward_model import RewardModel
from ..rewards.thinking import NULL_ANSWER, answer_to_score
from ..tasks import TaskSet, load_tasks
from ..types import Invalid, Message, Task
from .embedded import EmbeddedReward
from .features import distinct_share, overlap, stem, words
from .prompts import shipped_prompts
from .sentences import SentenceEncoder, SentenceReward
from .users import ModelUser, ScriptedUser, User

ZERO = (
    "A conversation between a user and an assistant. The assistant first plans its reply between "
    "<think> and </think>, then writes the reply between <response> and </response>. The user is "
    "shown the reply only: <think>the plan</think><response>the reply</response>"
)
TEMPLATES = {"zero": ZERO, "plain": ""}
EMBEDDED = {"embedded": None, "embedded:0": 0, "embedded:1": 1}  # and the half it is fitted to
_THINK, _CUT = "<think>", "</think>"


class Chat(ToolEnv):
    """Open chat: think, answer, be judged by the answer.

    The reward parts hold measures that the reward does not see, so that over-optimisation
    shows: `length` (words of the last answer), `distinct words` (share), `on topic` (share of
    the prompt's words taken up), `expected words` (share of the task's `expects`, where it
    has them), and `answered` (share of replies with an answer where one was looked for).

    Args:
        tasks: "chat" (shipped prompts), any other source of `load_tasks`, or tasks.
        split: "train" or "heldout" (disjoint).
        task_options: options of the source; `answer_key=""` for prompts without a reference.
        reward: "embedded" (see `EmbeddedReward`), "embedded:0" or "embedded:1" for one fitted
            to a half of the preferences, "sentences" or "sentences:FOLDER" for one that reads
            sentence embeddings (see `SentenceReward`), a folder or hub name for `RewardModel`,
            or any reward callable. A model (see `chat_model`) gives a `Judge`'s score. Each
            gets the conversation with answers in place of replies and without system messages.
        watch: another reward, of the same kinds, that is logged as the part `watched` and never
            paid: what one reward gains and the other does not see is over-optimisation.
        reward_range: lowest and highest reward; None means 0 to 1, and any number for a
            `RewardModel`, whose logits have no bounds.
        truncated_reward: what an episode earns that a budget cuts off (see `ChatEnv`). Give a low
            one with a reward that has no lowest value, or being cut off at 0 may be better than
            a bad reply; a warning says so.
        template: "zero", RLMT's instruction to plan and respond in tags, for a model without
            warm start; or "plain": no instruction, the whole reply is the answer but for
            native thoughts up to a `</think>`.
        strict: without both tags there is no answer, and `[NULL]` is scored, as in the
            paper's code; with "plain", where thoughts are opened and not closed. False scores
            such a reply as a whole, thoughts included, which a policy learns to exploit: leave
            the tags out and ramble. Do not train so.
        user: for conversations of several turns: (messages) -> the user's next text, or None
            to end, plain or async. "scripted" is one that ships; a model plays a person (see
            `ModelUser`). None: a single turn.
        max_turns: replies of the agent; after the last the conversation is judged.
    """

    def __init__(
        self,
        *,
        tasks: str | Sequence[Task] | TaskSet = "chat",
        split: str = "train",
        task_options: Mapping[str, Any] | None = None,
        reward: str | Reward | Model = "embedded",
        watch: str | Reward | Model | None = None,
        reward_range: tuple[float, float] | None = None,
        truncated_reward: float | None = None,
        template: str = "zero",
        strict: bool = True,
        user: str | User | Model | None = None,
        max_turns: int = 4,
        render_mode: str | None = None,
    ) -> None:
        if template not in TEMPLATES:
            raise ValueError(f"unknown template {template!r}: expected one of {list(TEMPLATES)}")
        if isinstance(tasks, str):
            tasks = _load(tasks, split, task_options or {})
        super().__init__(tasks=tasks, max_turns=max_turns, render_mode=render_mode)
        self.template, self.strict = template, strict
        self.user = _user(user)
        self.reward = _reward(reward)
        self.watch = None if watch is None else _reward(watch)
        if reward_range is not None:
            self.reward_range = reward_range
        elif isinstance(self.reward, RewardModel):
            self.reward_range = (float("-inf"), float("inf"))
        self.truncated_reward = truncated_reward
        if truncated_reward is None and math.isinf(self.reward_range[0]):
            warnings.warn(
                "this reward has no lowest value, and an episode that is cut off earns 0, which "
                "may be more than a bad reply: give truncated_reward, or reward_range",
                stacklevel=2,
            )

    def begin(self, task: Task) -> Sequence[Message]:
        instruction = TEMPLATES[self.template]
        return (Message("system", instruction), *task.prompt) if instruction else task.prompt

    def oracle(self, task: Task) -> Sequence[str]:
        if not task.reference or self.user is not None:
            return ()
        if not isinstance(self.reward, EmbeddedReward):
            return ()  # what another reward likes best is not known
        if self.template == "plain":
            return (task.reference,)
        return (f"<think>I know this.</think><response>{task.reference}</response>",)

    def answer(self, text: str) -> str:
        """What of a reply is judged and shown to the user; `[NULL]` where there is nothing."""
        if self.template == "plain":
            said = text.rpartition(_CUT)[2]
            return NULL_ANSWER if self.strict and _THINK in said else said.strip()
        return answer_to_score(text, strict=self.strict)

    async def respond(self, action: Message) -> Reply:
        if self.user is not None and self.episode.num_turns < self.max_turns:
            said = await maybe_await(self.user(self.shown(self.messages)))
            if said is not None:
                return Reply((Message("user", said),))
        return await super().respond(action)

    def shown(self, messages: Sequence[Message]) -> tuple[Message, ...]:
        """The conversation as the user and the reward see it.

        Assistant turns of the task's own prompt are no replies and stand as they are.
        """
        opening = len(self.begin(self.task))
        return tuple(
            replace(m, content=self.answer(m.content)) if m.role == "assistant" and own else m
            for m, own in ((m, i >= opening) for i, m in enumerate(messages))
            if m.role in ("user", "assistant")
        )

    async def grade(self, task: Task, messages: tuple[Message, ...]) -> Grade | Invalid:
        shown = self.shown(messages)
        grade = await grade_with(self.reward, task, shown)
        if isinstance(grade, Invalid):
            return grade
        parts = dict(grade.parts)
        if self.watch is not None:
            watched = await grade_with(self.watch, task, shown)
            if isinstance(watched, Invalid):
                return watched
            parts["watched"] = watched.reward
        return replace(grade, parts=parts | measures(task, shown), correct=None)


def measures(task: Task, shown: Sequence[Message]) -> dict[str, float]:
    """Plain measures of the last answer, kept beside the reward and never paid."""
    answer = shown[-1].content
    given = sum(m.role == "assistant" for m in task.prompt)
    answers = [m.content for m in shown if m.role == "assistant"][given:]
    asked = next((m.content for m in reversed(shown) if m.role == "user"), "")
    found = [] if answer == NULL_ANSWER else words(answer)
    parts = {}
    if expects := task.metadata.get("expects"):
        stems = {stem(word) for word in found}
        parts["expected words"] = sum(stem(word) in stems for word in expects) / len(expects)
    return parts | {
        "length": float(len(found)),
        "distinct words": distinct_share(found),
        "on topic": overlap(asked, answer),
        "answered": sum(a not in ("", NULL_ANSWER) for a in answers) / max(len(answers), 1),
    }


def _load(source: str, split: str, options: Mapping[str, Any]) -> TaskSet:
    if source != "chat":
        return load_tasks(source, split=split, **options)
    if options:
        raise ValueError(f"the shipped prompts take no options, got {dict(options)}")
    return shipped_prompts(split)


def _user(user: str | User | Model | None) -> User | None:
    model = chat_model(user)
    if model is not None:
        return ModelUser(model)
    if not isinstance(user, str):
        return cast("User | None", user)
    if user != "scripted":
        raise ValueError(f'user is "scripted", a callable or None, got {user!r}')
    return ScriptedUser()


def _reward(reward: str | Reward | Model) -> Reward:
    model = chat_model(reward)
    if model is not None:
        return Judge(model)
    if isinstance(reward, str) and reward in EMBEDDED:
        return EmbeddedReward(half=EMBEDDED[reward])
    if isinstance(reward, str) and reward.partition(":")[0] == "sentences":
        folder = reward.partition(":")[2]
        return SentenceReward(SentenceEncoder(folder) if folder else None)
    if isinstance(reward, str):
        return RewardModel(reward, answer_of=str)
    reward = cast(Reward, reward)
    own: Callable[[str], str] = getattr(reward, "answer_of", str)
    if own is not str:
        raise ValueError(
            "this reward looks for the answer in a reply itself, but Chat hands it answers: "
            "make it with answer_of=str"
        )
    return reward
