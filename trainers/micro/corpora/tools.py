"""Arithmetic with a Python tool: what `palestra quickstart` starts from.

Most documents answer an arithmetic question outright: rightly when both operands have one
digit, otherwise with a guess that is near the truth and almost never equal to it. One
document in `TOOL_EVERY` calls the Python tool instead and copies its true output. The base
model therefore *can* use the tool, and seldom does: what reinforcement learning is to find.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from .documents import Document, Piece

FENCE, CLOSE = "```python\n", "\n```"
FACT_WEIGHT, GUESS_WEIGHT, CHOICE_WEIGHT = 3.0, 0.2, 0.4  # of tokens, in the loss
EMPHASIS = 5.0  # loss weight of what follows the decision to call the tool
TOOL_EVERY = 20  # one document in so many calls the tool
# The share of copy practice among the other documents falls linearly from the first number
# and reaches the second after COPY_UNTIL of the training.
COPY_SHARE, COPY_UNTIL = (0.95, 0.5), 0.5
OPERATIONS = ("+", "-", "*")
OPENERS = ("", "", "", "The answer is ", "I think it is ", "That makes ")


@dataclass(frozen=True, slots=True)
class Question:
    """One arithmetic question: its expression as text, and the true value."""

    expression: str
    value: int
    easy: bool

    @property
    def text(self) -> str:
        return f"What is {self.expression}?"


def evaluate(numbers: list[int], operations: list[str]) -> int:
    """The value of `numbers` joined by `operations` (+, -, *), products first."""
    terms: list[list[int]] = [[numbers[0]]]
    for number, operation in zip(numbers[1:], operations, strict=True):
        if operation == "*":
            terms[-1].append(number)
        else:
            terms.append([number if operation == "+" else -1, 1 if operation == "+" else number])
    return sum(prod(factors) for factors in terms)


def draw_number(digits: int, rng: np.random.Generator) -> int:
    """A number of exactly so many digits; one digit means 0 to 9."""
    return int(rng.integers(10 ** (digits - 1) if digits > 1 else 0, 10**digits))


def draw_question(rng: np.random.Generator, easy_share: float = 0.4) -> Question:
    """An easy question (two one-digit numbers) or a hard one (more digits or terms)."""
    easy = bool(rng.random() < easy_share)
    terms = 2 if easy or rng.random() < 0.85 else 3
    low, high = (1, 2) if easy else (2, 4)
    numbers = [draw_number(int(rng.integers(low, high)), rng) for _ in range(terms)]
    operations = [OPERATIONS[int(i)] for i in rng.integers(len(OPERATIONS), size=terms - 1)]
    text = str(numbers[0])
    for number, operation in zip(numbers[1:], operations, strict=True):
        text += f" {operation} {number}"
    return Question(text, evaluate(numbers, operations), easy)


def guess(question: Question, rng: np.random.Generator) -> int:
    """The truth for an easy question, else a number of about its size (10 % deviation)."""
    if question.easy:
        return question.value
    scale = 0.1 * abs(question.value) + 3
    return question.value + round(float(rng.normal(0.0, scale)))


def direct_document(question: Question, rng: np.random.Generator) -> Document:
    """An answer outright. Made-up digits weigh little: they teach nothing but their length."""
    opener = OPENERS[int(rng.integers(len(OPENERS)))]
    answer = rf"{opener}\boxed{{{guess(question, rng)}}}"
    weight = FACT_WEIGHT if question.easy else GUESS_WEIGHT
    return Document(question.text, (Piece(answer[0]), Piece(answer[1:], weight)))


def copy_document(rng: np.random.Generator) -> Document:
    """Practice in copying without a tool: a number into a box, an expression, a long string.

    The first two stand between the same neighbours as in a tool call, so that copying there
    is learnt from many documents although tool calls are few.
    """
    kind = rng.random()
    if kind < 0.5:
        number = draw_number(int(rng.integers(1, 8)), rng) * int(rng.choice((1, 1, 1, -1)))
        block = output_block(str(number)).removeprefix(CLOSE)
        return Document(f"Read{block}", (Piece(rf"\boxed{{{number}}}"),))
    if kind < 0.75:
        question = draw_question(rng, easy_share=0.1)
        return Document(f"Repeat {question.text}", (Piece(f"({question.expression})"),))
    text, length = draw_question(rng).expression, int(rng.integers(8, 24))
    while len(text) < length:
        operation = OPERATIONS[int(rng.integers(len(OPERATIONS)))]
        text += f" {operation} {draw_number(int(rng.integers(1, 6)), rng)}"
    return Document(f"Repeat {text}", (Piece(text),))


def programs(question: Question) -> tuple[str, str]:
    """The right programs: one line, or two."""
    return f"print({question.expression})", f"x = {question.expression}\nprint(x)"


def output_block(output: str) -> str:
    """What is put after a program: its closing fence, then what the environment appends."""
    return f"{CLOSE}\n```output\n{output}\n```\n"


def tool_document(question: Question, rng: np.random.Generator) -> Document:
    """A tool call, its output (which weighs nothing: the model never writes it), the answer.

    The first character is the choice to call the tool. It weighs `CHOICE_WEIGHT`, all that
    follows `EMPHASIS`: calls stay rare, and good copying is learnt from few of them.
    """
    output, answer = str(question.value), question.value
    short, long = programs(question)
    kind = rng.random()
    code = short if kind < 0.8 else long
    if kind > 0.95:  # a slip, what Python says to it, and a guess after all
        code = long.replace("print(x)", "print(y)")
        output, answer = "NameError: name 'y' is not defined", guess(question, rng)
    pieces = (
        Piece(FENCE[0], CHOICE_WEIGHT),
        Piece(f"{FENCE[1:]}{code}{CLOSE}", EMPHASIS),
        Piece(output_block(output).removeprefix(CLOSE), 0.0),
        Piece(rf"\boxed{{{answer}}}", EMPHASIS),
    )
    return Document(question.text, pieces, long=True)


def draw(count: int, rng: np.random.Generator, done: float) -> list[Document]:
    """`count` documents, of which exactly every `TOOL_EVERY`-th calls the tool."""
    high, low = COPY_SHARE
    copy_share = max(low, high * (1 - done / COPY_UNTIL))
    documents = []
    for i in range(count):
        question = draw_question(rng)
        if i % TOOL_EVERY == 0:
            documents.append(tool_document(question, rng))
        elif rng.random() < copy_share:
            documents.append(copy_document(rng))
        else:
            documents.append(direct_document(question, rng))
    return documents
