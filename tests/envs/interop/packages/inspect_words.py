"""Tasks as people write them for inspect-ai."""

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageUser
from inspect_ai.scorer import Score, Target, accuracy, choice, includes, match, scorer
from inspect_ai.solver import (
    generate,
    multiple_choice,
    prompt_template,
    solver,
    system_message,
    use_tools,
)
from inspect_ai.tool import tool

WORDS = ("palestra", "gymnasium", "discus", "javelin", "wrestling", "running", "boxing", "oil")
WORDS += ("chariot", "stadion", "diaulos", "pankration", "hoplite", "pentathlon", "pale", "halter")
ROWS = [Sample(input=f"Reverse {w!r}.", target=w[::-1], id=w) for w in WORDS]


@scorer(metrics={"*": [accuracy()]})
def both():
    async def score(state, target: Target):
        text = state.output.completion
        return Score(value={"right": target.text in text, "brief": float(len(text) < 50)})

    return score


@scorer(metrics=[accuracy()])
def broken():
    async def score(state, target: Target):
        raise KeyError("no judge")

    return score


@solver
def ask_again():
    async def solve(state, generate):
        state.messages.append(ChatMessageUser(content="Are you sure?"))
        return await generate(state)

    return solve


@tool
def letters():
    async def execute(word: str):
        """Count letters.

        Args:
            word: the word
        """
        return len(word)

    return execute


@task
def reverse(grading="match"):
    graded = {"match": match(location="exact"), "both": both(), "broken": broken()}[grading]
    chain = [system_message("You reverse words."), prompt_template("{prompt} Now."), generate()]
    return Task(dataset=MemoryDataset(ROWS), solver=chain, scorer=graded)


@task
def twice():
    chain = [generate(), ask_again()]
    return Task(dataset=MemoryDataset(ROWS), solver=chain, scorer=[includes(), match()])


@task
def pick():
    rows = [
        Sample(input=f"Which is {w!r} reversed?", choices=[w, w[::-1], w[1:]], target="B")
        for w in WORDS
    ]
    return Task(dataset=MemoryDataset(rows), solver=multiple_choice(), scorer=choice())


@task
def tools():
    return Task(
        dataset=MemoryDataset(ROWS), solver=[use_tools(letters()), generate()], scorer=match()
    )


@task
def boxed():
    return Task(dataset=MemoryDataset(ROWS), solver=generate(), scorer=match(), sandbox="docker")


@task
def unscored():
    return Task(dataset=MemoryDataset(ROWS), solver=generate())
