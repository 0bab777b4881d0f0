"""Which part of a reply a reward may see, after RLMT (arXiv 2509.20357).

RLMT rewards r(x, y) for a reply (z, y) of thoughts and answer: the reward model never sees z.

Strict (the default): the answer stands between one opening and one closing tag; a reply
without them has no answer, and the literal `[NULL]` is scored in its place, as in the
paper's code.

Not strict: without the opening tag the whole reply is scored, thoughts included; without the
closing tag everything after the opening one. That is how RLMT treats models that were never
taught the tags, and it can be exploited: a policy that leaves the tags out has its thoughts
scored too, and reward models like length, so it learns to ramble. Use it for the first look
at a model, not to train one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..types import Message

NULL_ANSWER = "[NULL]"


def answer_to_score(text: str, *, strict: bool = True, tag: str = "response") -> str:
    """The text that a reward model should score: what stands in `<tag>...</tag>`, stripped.

    Strict mode wants each tag exactly once and in order (a second pair inside the thoughts
    would leave the choice to luck) and something between them.

    Example: `answer_to_score("<think>Hm.</think><response>Rome.</response>")` is "Rome.".
    """
    start, end = f"<{tag}>", f"</{tag}>"
    if strict:
        if text.count(start) != 1 or text.count(end) != 1:
            return NULL_ANSWER
        before, _, rest = text.partition(start)
        answer = rest.partition(end)[0].strip()
        return answer if answer and end not in before else NULL_ANSWER
    _, found, rest = text.partition(start)
    return (rest.partition(end)[0] if found else text).strip()


def of_replies(answer_of: Callable[[str], str], prompt: Sequence[Message]) -> Callable[[str], str]:
    """`answer_of` for what the agent says: assistant turns of a task's own `prompt` are nobody's
    replies and stand as they are."""
    given = {m.content for m in prompt if m.role == "assistant"}
    return lambda text: text if text in given else answer_of(text)
