"""`palestra/Rubric-v0`: replies graded by rubrics, after Kimi K2 (arXiv 2507.20534, 3.2.2).

Each reply is scored by the items of its task and by prescriptive items against the ways that
policies learn to please a critic; a mandatory item that is not met makes the score zero. The
replies of a group may also meet in a tournament, each pair judged in both orders. The critic
may be a program, a model, or the policy itself. How Kimi K2 makes rewards of the outcomes of
comparisons is not published: the win rate is our choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import Any

from ..core import ToolEnv
from ..episode import Ask, Grade
from ..rewards.endpoint import Model
from ..rewards.group import GroupRewards, Values, final_text
from ..rewards.judge import transcript
from ..rewards.rubric import CORE, Item, ItemCheck, explicit_score
from ..rewards.tournament import Compare, tournament
from ..tasks import TaskSet, load_tasks
from ..types import Group, Invalid, Message, Task
from .checks import prescriptive_items, verified_items
from .critics import check_items, compared_by_items, comparison, item_check
from .generator import GeneratedTasks
from .report import policy_report
from .tasks import shipped_tasks

GRADING = ("items", "tournament", "both")
RUBRICS = ("task", "prescriptive", "core")
VETO_BELOW = 0.5


class Rubric(ToolEnv):
    """Writing tasks graded by rubrics.

    Args:
        tasks: "rubric" (shipped), "generated" (made on demand in their form; options `size` and
            `seed`), any other source of `load_tasks`, or tasks; their items stand in
            `metadata["rubric"]` (see `checks.py`).
        split: "train" or "heldout" (disjoint).
        task_options: options of the source; `answer_key=""` for tasks without a reference.
        rubrics: which items count, of "task", "prescriptive" and "core". The core items need
            a critic that reads.
        critic: an `ItemCheck` for items without a program (default: `ProgramCritic`), or a model
            (see `chat_model`), asked for the probability of its verdicts where it tells them and
            for JSON elsewhere.
        compare: judges pairs in the tournament, likewise (default: by the items' scores).
        grading: "items", the score of a reply on its own; "tournament", its win rate over the
            valid siblings of its group; "both", their weighted mean. The tournament is a
            group reward, which `collect` applies; an episode on its own has the item score.
        tournament_weight: of the win rate with "both", in [0, 1].
        opponents: per reply in the tournament; None for all against all.
        answer_of: what of a reply is judged, such as `answer_to_score` to leave thoughts out.
        known_pairs: pairs of a task's reference and another's on which evaluations measure the
            policy as a critic (see `policy_report`); 0 for no such measure.
    """

    def __init__(
        self,
        *,
        tasks: str | Sequence[Task] | TaskSet = "rubric",
        split: str = "train",
        task_options: Mapping[str, Any] | None = None,
        rubrics: Sequence[str] = ("task", "prescriptive"),
        critic: ItemCheck | Model | None = None,
        compare: Compare | Model | None = None,
        grading: str = "items",
        tournament_weight: float = 0.5,
        opponents: int | None = None,
        answer_of: Callable[[str], str] = str,
        known_pairs: int = 0,
        render_mode: str | None = None,
    ) -> None:
        _check(rubrics, critic, grading, tournament_weight)
        if isinstance(tasks, str):
            tasks = _load(tasks, split, task_options or {})
        super().__init__(tasks=tasks, max_turns=1, render_mode=render_mode)
        self.rubrics, self.grading = tuple(rubrics), grading
        self.critic, self.compare = item_check(critic), comparison(compare)
        self.opponents, self.answer_of, self.known_pairs = opponents, answer_of, known_pairs
        if grading != "items":
            weight = tournament_weight if grading == "both" else 1.0
            self.group_rewards = GroupRewards(
                {"win rate": self.win_rate}, {"win rate": weight}, base=1 - weight
            )

    def oracle(self, task: Task) -> Sequence[str]:
        return (task.reference,) if task.reference else ()

    async def measure(self, ask: Ask) -> dict[str, float]:
        known = [
            (transcript(t.prompt), t.reference) for t in islice(self.tasks, 2 * self.known_pairs)
        ]
        # The other half's references, which answer other requests, are the wrong answers.
        wrong = [answer for _, answer in known[self.known_pairs :]]
        triples = [(*pair, other) for pair, other in zip(known, wrong, strict=False) if all(pair)]
        return await policy_report(ask, triples) if triples else {}

    def items(self, task: Task) -> tuple[Item, ...]:
        """The items that count for a task.

        Raises:
            ValueError: the task has none though "task" is among the rubrics, or a bad one.
        """
        items: tuple[Item, ...] = ()
        if "task" in self.rubrics:
            items += verified_items(task)
        if "prescriptive" in self.rubrics:
            items += prescriptive_items()
        return items + (CORE if "core" in self.rubrics else ())

    async def grade(self, task: Task, messages: tuple[Message, ...]) -> Grade | Invalid:
        items = self.items(task)
        answer = self.answer_of(messages[-1].content)
        met = await check_items(items, self.critic, transcript(task.prompt), answer)
        if isinstance(met, Invalid):
            return met
        vetoed = any(i.mandatory and c < VETO_BELOW for i, c in zip(items, met, strict=True))
        score = explicit_score(items, met, veto_below=VETO_BELOW)
        parts = {item.name: value for item, value in zip(items, met, strict=True)}
        return Grade(score, {**parts, "items": score, "vetoed": float(vetoed)}, score >= 1.0)

    async def win_rate(self, group: Group) -> Values:
        """The win rate of each valid member over its valid siblings, in both orders.

        0 for a reply that a mandatory item vetoes, and for one that was cut off, which meets
        nobody; 0.5 for an only contender.
        """
        trajectories = group.trajectories
        valid = [i for i, t in enumerate(trajectories) if t.reward is not None]
        met = [i for i in valid if "vetoed" in trajectories[i].reward_parts]
        values: list[float | Invalid | None] = [None] * len(trajectories)
        for i in valid:
            values[i] = 0.0
        answers = [self.answer_of(final_text(trajectories[i])) for i in met]
        for i, rate in zip(met, await self._rates(group.task, answers), strict=True):
            values[i] = 0.0 if trajectories[i].reward_parts["vetoed"] else rate
        return values

    async def _rates(self, task: Task, answers: Sequence[str]) -> list[float | Invalid]:
        if len(answers) < 2:
            return [0.5] * len(answers)
        compare = self.compare or compared_by_items(self.items(task), self.critic)
        asked = transcript(task.prompt)
        outcome = await tournament(asked, answers, compare, opponents=self.opponents)
        lost = Invalid("judge", "no comparison with a sibling gave a verdict")
        return [lost if rate is None else rate for rate in outcome.win_rates]


def _load(source: str, split: str, options: Mapping[str, Any]) -> TaskSet:
    if source == "generated":
        return GeneratedTasks(split=split, **options)
    if source != "rubric":
        return load_tasks(source, split=split, **options)
    if options:
        raise ValueError(f"the shipped tasks take no options, got {dict(options)}")
    return shipped_tasks(split)


def _check(rubrics: Sequence[str], critic: object, grading: str, weight: float) -> None:
    if not rubrics or set(rubrics) - set(RUBRICS):
        raise ValueError(f"rubrics are some of {list(RUBRICS)}, got {list(rubrics)}")
    if "core" in rubrics and critic is None:
        raise ValueError("no program can check the core items: give a critic that reads")
    if grading not in GRADING:
        raise ValueError(f"grading is one of {list(GRADING)}, got {grading!r}")
    if not 0 <= weight <= 1:
        raise ValueError(f"tournament_weight must be in [0, 1], got {weight}")
