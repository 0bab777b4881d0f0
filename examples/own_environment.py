#!/usr/bin/env python3
"""An environment of your own in thirty lines, and an agent's score on it.

    python examples/own_environment.py

    capitals: score 0.500 [0.095, 0.905] over 2 tasks, 50% of responses used the tool

The command line takes it too (`examples` must be on the import path):

    palestra eval own_environment:examples/Capitals-v0 --model smollm2
"""

import asyncio

import palestra
from palestra.agents.agent import Agent
from palestra.agents.engines.scripted import ScriptedEngine
from palestra.agents.evaluation import evaluate
from palestra.agents.rollout import EnvPool
from palestra.envs.core import ToolEnv
from palestra.envs.types import Message, Task

ATLAS = {"France": "Paris", "Peru": "Lima"}


def look_up(country: str) -> str:
    """Look up the capital of a country.

    Args:
        country: its English name
    """
    return ATLAS[country]


class Capitals(ToolEnv):
    def __init__(self) -> None:
        tasks = [
            Task(country, (Message("user", f"What is the capital of {country}?"),), capital)
            for country, capital in ATLAS.items()
        ]
        super().__init__(tasks=tasks, tools=[look_up], protocol="hermes", max_turns=3)

    def grade(self, task: Task, messages: tuple[Message, ...]) -> float:
        return float(task.reference.lower() in messages[-1].content.lower())


palestra.register("examples/Capitals-v0", Capitals, description="Capitals, with an atlas")


def reply(conversation: str) -> str:
    """A scripted stand-in for a model: it looks France up, and guesses the rest."""
    if "Paris" in conversation:
        return "It is Paris."
    if "of France" in conversation:
        return '<tool_call>{"name": "look_up", "arguments": {"country": "France"}}</tool_call>'
    return "Quito, I think."


async def main() -> None:
    env = palestra.make("examples/Capitals-v0").unwrapped
    result = await evaluate(EnvPool(Capitals), Agent(ScriptedEngine(reply)), env.tasks)
    score, tool = result.score, result.estimates["tool_share"]
    interval = f"[{score.low:.3f}, {score.high:.3f}]"
    print(
        f"capitals: score {score.value:.3f} {interval} over {len(result.rows)} tasks, "
        f"{tool.value:.0%} of responses used the tool"
    )


if __name__ == "__main__":
    asyncio.run(main())
