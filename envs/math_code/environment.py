"""`palestra/MathCode-v0`: mathematics with a Python tool, after ZeroTIR (arXiv 2505.07773).

The agent may run Python in a sandboxed interpreter that lives as long as the episode, then
gives its final answer in `\\boxed{}`. Reward 1 for a correct answer, 0 otherwise; with
`call_price` less that for every call.

What happens where:
- Output longer than `max_output_chars` is replaced by a notice, as in ZeroTIR: a model that
  prints too much should learn to print less, not read a torn fragment.
- After `max_tool_calls` executions the fenced protocol no longer runs anything; output
  blocks that the model writes itself count as hallucinated (`ToolStats.hallucinated`), never
  as calls. The hermes protocol answers further calls with a notice.
- A price is taken when the call is made, so that running out of a budget is no way around it.
- A lost sandbox makes the episode invalid, never wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ...sandbox import Limits, Sandbox
from ..episode import Grade, Reply
from ..interpreter import InterpreterEnv
from ..rewards.efficiency import per_call_price
from ..tasks import TaskSet, load_tasks
from ..types import Invalid, Message, Task
from .grading import is_right

INSTRUCTIONS = "Solve the problem. Put the final answer in \\boxed{}."


class MathCode(InterpreterEnv):
    """Math problems with a Python tool.

    Args:
        tasks: a task source (see `load_tasks`: "arithmetic", "countdown", a JSONL or Parquet
            path, "hub:owner/name", "rg:family", "mixture"), or a sequence of tasks.
        split: "train" or "heldout" (disjoint by construction).
        task_options: options of the source, such as `{"digits": 3}`.
        protocol: "fenced" or "hermes".
        tool: whether the agent has the tool at all.
        max_tool_calls: executions per episode (ZeroTIR's default is 2).
        call_price: taken from the reward for every execution beyond the first `free_calls`,
            in right answers, wrong ones and episodes cut short alike. 0.05 is reported to cut
            calls by 61 to 67 % at an accuracy change of -1.1 to +0.9 points.
        max_output_chars: longest tool output shown to the agent.
        instructions: system prompt; the protocol's explanation of the tool is added unless
            this is empty. None gives the default text.
        examples: worked examples, shown before the problem as earlier turns: pairs of what
            the user asks and what the assistant answers, tool use included.
        limits: what the sandbox may use.
        sandbox: where code runs (default: one local sandbox shared by the process).
    """

    truncated_reward = 0.0  # the only rewards below 0 are prices, taken as the calls are made

    def __init__(
        self,
        *,
        tasks: str | Sequence[Task] | TaskSet = "arithmetic",
        split: str = "train",
        task_options: Mapping[str, Any] | None = None,
        protocol: str = "fenced",
        tool: bool = True,
        max_tool_calls: int | None = 2,
        call_price: float = 0.0,
        free_calls: int = 0,
        max_turns: int = 8,
        max_output_chars: int = 1024,
        instructions: str | None = None,
        examples: Sequence[Sequence[str]] = (),
        limits: Limits | Mapping[str, float] | None = None,
        sandbox: Sandbox | None = None,
        render_mode: str | None = None,
    ) -> None:
        problems = (
            load_tasks(tasks, split=split, **(task_options or {}))
            if isinstance(tasks, str)
            else tasks
        )
        super().__init__(
            tasks=problems,
            tools=[self.python] if tool else [],
            protocol=protocol,
            max_tool_calls=max_tool_calls,
            max_turns=max_turns,
            render_mode=render_mode,
            limits=limits,
            sandbox=sandbox,
            max_output_chars=max_output_chars,
        )
        self.call_price, self.free_calls = call_price, free_calls
        self._price_of(0)  # refuses what is negative
        if call_price:
            if max_tool_calls is None:
                raise ValueError("call_price needs max_tool_calls, as the lowest reward follows")
            self.reward_range = (self._price_of(max_tool_calls), 1.0)
        self.instructions = INSTRUCTIONS if instructions is None else instructions
        self.examples = tuple(
            message
            for question, answer in examples
            for message in (Message("user", question), Message("assistant", answer))
        )

    def begin(self, task: Task) -> Sequence[Message]:
        if not self.instructions:
            return (*self.examples, *task.prompt)
        parts = [self.instructions]
        if self.protocol is not None and self.protocol.inline:
            # Chat protocols tell of their tools where the chat template wants it told.
            parts.append(self.tool_instructions)
        system = "\n\n".join(p for p in parts if p)
        return (Message("system", system), *self.examples, *task.prompt)

    def oracle(self, task: Task) -> Sequence[str]:
        return (f"\\boxed{{{task.reference}}}",) if task.reference else ()

    async def python(self, code: str) -> str:
        """Run Python code and return what it prints. Names stay defined between calls.

        Args:
            code: the program; the value of a last expression is shown too
        """
        return self.show(await (await self.live()).arun(code))

    async def respond(self, action: Message) -> Reply:
        before = self._price_of(self.tool_stats.calls)
        reply = await super().respond(action)
        if not self.call_price:
            return reply
        price = self._price_of(self.tool_stats.calls)
        parts = {**reply.parts, "calls": price}
        return replace(reply, reward=reply.reward + price - before, parts=parts)

    async def grade(self, task: Task, messages: tuple[Message, ...]) -> Grade | Invalid:
        right = await is_right(messages[-1].content, task)
        if isinstance(right, Invalid):
            return right
        return Grade(float(right), {"answer": float(right)}, right)

    def _price_of(self, calls: int) -> float:
        return per_call_price(0.0, calls, price=self.call_price, free_calls=self.free_calls)
