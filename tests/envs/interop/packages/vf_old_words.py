"""An environment package as people write them for verifiers before 0.4, one per `kind`."""

import random

import verifiers as vf

WORDS = ("palestra", "gymnasium", "discus", "javelin", "wrestling", "running", "boxing", "oil")


def reverse_reward(completion, answer, parser):
    return float(parser.parse_answer(completion) == answer)


def length_reward(completion, **kwargs):
    return float(len(completion[-1].content) < 100)


async def broken_reward(completion):
    raise KeyError("no judge")


def group_reward(completions):
    return [0.0 for _ in completions]


def letters(word: str) -> int:
    """Count the letters of a word.

    Args:
        word: the word to measure
    """
    return len(word)


class Guess(getattr(vf, "MultiTurnEnv", object)):  # not there from 0.4 on
    """Guess a number from 1 to 9; told higher or lower."""

    async def setup_state(self, state):
        state["secret"] = int(state["answer"])
        state["prompt"] = [*state["prompt"], vf.UserMessage(content="From 1 to 9.")]
        return state

    async def env_response(self, messages, state, **kwargs):
        said = messages[-1].content.strip()
        if said == "ask a model":
            await self.get_model_response(state, messages)
        if not said.isdigit():
            return [vf.UserMessage(content="A number, please.")]
        if int(said) == state["secret"]:
            won = [vf.UserMessage(content="Right.")]
            state["final_env_response"] = won
            return won
        way = "Higher." if int(said) < state["secret"] else "Lower."
        return [vf.UserMessage(content=way)]


def solved(state):
    return float(state.get("final_env_response") is not None)


def load_environment(kind="single", heldout=False):
    from datasets import Dataset

    rows = [{"question": f"Reverse {word!r}.", "answer": word[::-1]} for word in WORDS]
    extra = {"eval_dataset": Dataset.from_list([rows.pop(), rows.pop()])} if heldout else {}
    extra["dataset"] = Dataset.from_list(rows)
    extra["system_prompt"] = "Answer in <answer> tags."
    parser = vf.XMLParser(["answer"])
    if kind == "single":
        rubric = vf.Rubric([reverse_reward, length_reward], weights=[0.8, 0.2], parser=parser)
        return vf.SingleTurnEnv(rubric=rubric, parser=parser, **extra)
    if kind == "broken":
        return vf.SingleTurnEnv(rubric=vf.Rubric([broken_reward, length_reward]), **extra)
    if kind == "group":
        return vf.SingleTurnEnv(rubric=vf.Rubric([group_reward]), **extra)
    if kind == "tools":
        rubric = vf.Rubric([lambda completion, answer: float(answer in completion[-1].content)])
        return vf.ToolEnv(tools=[letters], rubric=rubric, max_turns=5, **extra)
    draw = random.Random(0)
    games = [{"question": f"Game {n}.", "answer": str(draw.randint(1, 9))} for n in range(60)]
    return Guess(dataset=Dataset.from_list(games), rubric=vf.Rubric([solved]), max_turns=6)
