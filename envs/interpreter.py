"""`InterpreterEnv`: a `ToolEnv` with a sandboxed Python interpreter for each episode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..sandbox import Execution, Limits, Sandbox, Session, Status, shared_sandbox
from .core import ToolEnv
from .tools import ToolRunError, ToolTimeout


class InterpreterEnv(ToolEnv):
    """What environments share whose tools run Python in one live session per episode.

    Args:
        limits: what the session may use.
        sandbox: where code runs (default: one local sandbox shared by the process).
        max_output_chars: longest tool output shown to the agent; longer output is replaced by
            a notice.
        **settings: those of `ToolEnv`.
    """

    def __init__(
        self,
        *,
        limits: Limits | Mapping[str, float] | None,
        sandbox: Sandbox | None,
        max_output_chars: int,
        **settings: Any,
    ) -> None:
        if max_output_chars < 1:
            raise ValueError(f"max_output_chars must be at least 1, got {max_output_chars}")
        super().__init__(**settings)
        self.limits = Limits.of(limits)
        self.max_output_chars = max_output_chars
        self._sandbox = sandbox
        self._session: Session | None = None

    def box(self) -> Sandbox:
        """Where code runs."""
        self._sandbox = self._sandbox or shared_sandbox()
        return self._sandbox

    async def live(self) -> Session:
        """The episode's interpreter, opened by the first who asks."""
        if self._session is None:
            self._session = await self.box().aopen(self.limits, seed=self.episode.seed or 0)
        return self._session

    def show(self, execution: Execution) -> str:
        """What the agent is shown of a run.

        Raises:
            ToolTimeout, ToolRunError: it did not end well; the message is what is shown.
        """
        text = execution.stdout + (f"{execution.value}\n" if execution.value is not None else "")
        if execution.status is Status.TIMEOUT:
            limit = f"Timed out (the limit is {self.limits.wall_s:g} s)."
            raise ToolTimeout(self.clip(text) + limit)
        if not execution.ok:
            raise ToolRunError(self.clip(text + execution.stderr))
        return self.clip(text)

    def clip(self, text: str) -> str:
        """The text, or a notice in its place if it is too long to be shown."""
        if len(text) <= self.max_output_chars:
            return text
        return f"Output too long ({len(text)} characters). Print less."

    # The live interpreter is part of a snapshot: it is forked, so that both go on alone.

    def save_resources(self) -> Session | None:
        super().save_resources()
        return self._session.fork() if self._session else None

    def load_resources(self, saved: Session | None) -> None:
        self._session = saved.fork() if saved else None

    def release_resources(self) -> None:
        super().release_resources()
        if self._session is not None:
            self._session.close()
            self._session = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_session": None}
