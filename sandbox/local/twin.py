"""Copying a live interpreter, the host's part; the server's is in `copies`."""

from __future__ import annotations

from ..types import SandboxError
from . import wire
from .process import ANSWER_S, Process, Reply
from .verdict import cpu_used, text
from .waiting import Conversation

PATIENCE_S = 600.0  # the server gives a copy up long before, unless the whole machine is starved


class NotCopiedError(SandboxError):
    """A session did not copy itself. `reply` is how it answered; it may have died over it.

    `shortage`: by the server's word, for what the machine lacks.
    """

    def __init__(self, why: str, reply: Reply, *, shortage: bool = False) -> None:
        super().__init__(f"the session could not be copied: {why}")
        self.reply = reply
        self.shortage = shortage


def copy(process: Process, twin: Process, wait_s: float) -> Conversation[Process]:
    """Announce the copy to the server, ask the interpreter to fork, await the twin.

    The twin stands still, as its original does. It counts its own CPU seconds from 0.

    Raises:
        NotCopiedError: there is no copy, within `wait_s` by the server's clock.
        SandboxError: the server is lost.
    """
    try:
        yield from twin.announce({"op": "fork", "of": process.sid, "wait_s": wait_s})
        process.forking = True
        answer_s = min(ANSWER_S, wait_s)
        reply = yield from process.exchange([wire.FORK], 0, PATIENCE_S, twin, answer_s)
        process.forking = False
        answer = reply.answer
        if answer is None or answer.get("error"):
            raise NotCopiedError(_refusal(reply, wait_s), reply)
        try:
            yield from twin.await_ready(PATIENCE_S)
        except SandboxError as error:
            if twin.gone and twin.exit is None:  # nobody is there to say why
                raise
            shortage = bool((twin.exit or {}).get("shortage"))
            raise NotCopiedError(str(error), reply, shortage=shortage) from error
    except BaseException:
        process.stop()  # it may have been left in the middle of it
        twin.close()
        raise
    process.cpu_used = max(process.cpu_used, cpu_used(process, reply))
    twin.stop()
    return twin


def settle(process: Process) -> Conversation[Reply]:
    """Take in the answer to a fork for which nobody waited to the end, if there was one.

    The server has given that copy up, so that an answer comes soon, or the process is killed.
    """
    reply = Reply()
    if process.forking:
        reply = yield from process.exchange([], 0, ANSWER_S)
        process.forking = False
    return reply


def _refusal(reply: Reply, wait_s: float) -> str:
    """Why a session did not copy itself."""
    if reply.answer is not None:
        why = reply.answer["error"]
        return text(why[:1000]) if isinstance(why, str) else "it does not say why"
    return f"it did not answer within {wait_s:g} s" if reply.killed == "timeout" else "it ended"
