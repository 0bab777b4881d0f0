"""`palestra/PythonExec-v0`: write a program, try it, submit it; hidden tests decide.

The agent runs code in an interpreter that lives as long as the episode. A program that could
be the solution is also tried on the task's examples, in a fresh session, exactly as it would
be graded. Then it submits. Reward 1 if every hidden test passes, else 0; with
`partial_credit` the share of tests that pass.

How a program is submitted:
- by a call of `submit` (hermes, native calls), which ends the episode; other calls in the
  same message are not run;
- or by a message that runs nothing: its last ```python block is the submission, and without
  one the program that was run last.

What happens where: the agent's session never sees a hidden test. Grading opens sessions of
its own (`rewards/unit_tests/grading.py`); expected values stay outside of those in which the
submission runs. A lost sandbox makes the episode invalid, never wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...sandbox import Limits, Sandbox
from ..episode import Grade, Reply
from ..interpreter import InterpreterEnv
from ..protocols import MalformedCall
from ..rewards.unit_tests import LIMITS, Report, StdioTests, UnitTests, arun_tests
from ..tasks import TaskSet
from ..types import Message, Task, ToolCall, ToolResult, ToolStatus
from .formats import example_tests, hidden_tests, solution
from .loading import load_programs

INSTRUCTIONS = (
    "Solve the task in Python. Your submission is graded by hidden tests, which run it alone "
    "in a fresh interpreter: it must be one complete program."
)
HOW_TO_SUBMIT = {
    True: "The block you ran last is your submission: when it is right, end your answer.",
    False: "Try programs with `python`, and hand in the final one with `submit`.",
}
_BLOCK = re.compile(r"```(?:python3?|py)[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)
_MAX_FAILURES = 3


@dataclass(slots=True)
class Programs:
    """What the agent wrote so far: the last program it ran, and its submission."""

    last: str | None = None
    submitted: str | None = None


class PythonExec(InterpreterEnv):
    """Programming problems with hidden unit tests.

    Args:
        tasks: a source (see `load_programs`: "programs", "shipped", a JSONL or Parquet
            path, "hub:owner/name"), or a sequence of tasks that it made.
        split: "train" or "heldout" (disjoint by construction).
        task_options: options of the source, such as `{"level": 2}`.
        protocol: "fenced" or "hermes".
        partial_credit: pay the share of hidden tests passed; default all or nothing.
        try_examples: whether `python` tries programs on the task's examples.
        max_tool_calls: runs per episode; submitting is always possible.
        max_output_chars: longest tool output shown to the agent.
        instructions: system prompt; how to run and submit is added unless this is empty.
            None gives the default text.
        examples: worked examples, shown before the problem as earlier turns: pairs of what
            the user asks and what the assistant answers.
        limits: what the agent's session may use.
        grading_limits: what a graded program may use; its times hold for each test.
        sandbox: where code runs (default: one local sandbox shared by the process).
    """

    def __init__(
        self,
        *,
        tasks: str | Sequence[Task] | TaskSet = "programs",
        split: str = "train",
        task_options: Mapping[str, Any] | None = None,
        protocol: str = "fenced",
        partial_credit: bool = False,
        try_examples: bool = True,
        max_tool_calls: int | None = 4,
        max_turns: int = 10,
        max_output_chars: int = 1024,
        instructions: str | None = None,
        examples: Sequence[Sequence[str]] = (),
        limits: Limits | Mapping[str, float] | None = None,
        grading_limits: Limits | Mapping[str, float] = LIMITS,
        sandbox: Sandbox | None = None,
        render_mode: str | None = None,
    ) -> None:
        options = dict(task_options or {})
        super().__init__(
            tasks=load_programs(tasks, split=split, **options) if isinstance(tasks, str) else tasks,
            tools=[self.python, self.submit],
            protocol=protocol,
            max_tool_calls=max_tool_calls,
            max_turns=max_turns,
            render_mode=render_mode,
            limits=limits,
            sandbox=sandbox,
            max_output_chars=max_output_chars,
        )
        self.partial_credit, self.try_examples = partial_credit, try_examples
        self.instructions = INSTRUCTIONS if instructions is None else instructions
        self.examples = tuple(
            message
            for question, answer in examples
            for message in (Message("user", question), Message("assistant", answer))
        )
        self.grading_limits = Limits.of(grading_limits)

    def begin(self, task: Task) -> Sequence[Message]:
        self.episode.memory = Programs()
        if not self.instructions:
            return (*self.examples, *task.prompt)
        assert self.protocol is not None
        inline = self.protocol.inline
        # Chat protocols tell of their tools where the chat template wants it told.
        parts = [self.instructions, self.tool_instructions if inline else "", HOW_TO_SUBMIT[inline]]
        system = "\n\n".join(part for part in parts if part)
        return (Message("system", system), *self.examples, *task.prompt)

    # The tools.

    async def python(self, code: str, stdin: str = "") -> str:
        """Run Python code and return what it prints. Names stay defined between calls. A
        program that could be the solution is also tried on the examples of the task.

        Args:
            code: the program; the value of a last expression is shown too
            stdin: what the program reads as its standard input
        """
        tests = example_tests(self.task) if self.try_examples else None
        whole = self._remember(code)
        shown = ""
        if stdin or not (whole and isinstance(tests, StdioTests)):
            shown = self.show(await (await self.live()).arun(code, stdin=stdin))
        if tests is None or not whole:
            return shown
        report = await self._try(code, tests, stop_early=False)
        return shown + self.clip(_describe(report))

    def submit(self, code: str) -> str:
        """Hand in the final program. This ends the episode.

        Args:
            code: the complete program
        """
        self._programs.submitted = code
        return "Submitted."

    # An action.

    async def respond(self, action: Message) -> Reply:
        assert self.protocol is not None
        for call in self.protocol.calls(action):
            if isinstance(call, ToolCall) and call.name == "submit":
                result = await self.tools["submit"].call(call, in_loop=self._in_loop)
                if result.status is ToolStatus.OK:
                    return await self._finish()
        return await super().respond(action)

    async def _answer(self, call: ToolCall | MalformedCall) -> ToolResult:
        if isinstance(call, ToolCall) and call.name == "submit":  # with bad arguments
            return await self.tools["submit"].call(call, in_loop=self._in_loop)
        return await super()._answer(call)

    async def grade(self, task: Task, messages: tuple[Message, ...]) -> Grade:
        program = self._submission(messages[-1].content)
        if program is None:
            return Grade(0.0, {"tests": 0.0}, False)
        report = await self._try(program, hidden_tests(task), not self.partial_credit)
        score = report.fraction if self.partial_credit else float(report.all_passed)
        return Grade(score, {"tests": score}, report.all_passed)

    def oracle(self, task: Task) -> Sequence[str]:
        program = solution(task)
        if not program:
            return ()
        if self.protocol is not None and self.protocol.inline:
            return (f"```python\n{program.strip()}\n```\nThis is my solution.",)
        call = {"name": "submit", "arguments": {"code": program}}
        return (f"<tool_call>\n{json.dumps(call)}\n</tool_call>",)

    # Inside.

    @property
    def _programs(self) -> Programs:
        memory = self.episode.memory
        assert isinstance(memory, Programs)
        return memory

    def _submission(self, text: str) -> str | None:
        programs = self._programs
        if programs.submitted is not None:
            return programs.submitted
        blocks = _BLOCK.findall(text)
        return blocks[-1] if blocks else programs.last

    def _remember(self, code: str) -> bool:
        """Note a program that was run; whether it could be the solution."""
        programs, tests = self._programs, hidden_tests(self.task)
        whole = isinstance(tests, StdioTests) or _defines(code, tests.entry_point.split(".")[0])
        if whole or programs.last is None:
            programs.last = code
        return whole

    async def _try(self, program: str, tests: UnitTests, stop_early: bool) -> Report:
        return await arun_tests(
            program,
            tests,
            self.box(),
            limits=self.grading_limits,
            stop_early=stop_early,
            seed=self.episode.seed or 0,
        )


def _defines(code: str, name: str) -> bool:
    """Whether a program seems to give `name` a meaning.

    Not by parsing it: a text can be made that takes a parser long, or breaks it.
    """
    word = re.escape(name)
    pattern = rf"^[ \t]*(?:(?:async[ \t]+)?def|class)[ \t]+{word}\b|^[ \t]*{word}[ \t]*[:=](?!=)"
    return re.search(pattern, code, re.MULTILINE) is not None


def _describe(report: Report) -> str:
    """What the agent is told of the examples."""
    lines = [f"Examples: {report.passed} of {report.total} passed."]
    lines += [failure.text for failure in report.failures[:_MAX_FAILURES]]
    return "\n".join(lines) + "\n"
