"""Plausible runs for the report's tests: made-up responses of a model that learns to multiply."""

import json
import math
import random
from dataclasses import replace

from palestra.agents.evaluation import EvalResult
from palestra.agents.runlog import JsonLines, RunLog, write_json
from palestra.envs.types import (
    FinishReason,
    Group,
    Invalid,
    Message,
    StopReason,
    Task,
    ToolCall,
    ToolResult,
    ToolStats,
    ToolStatus,
    Trajectory,
    Turn,
)
from palestra.trainers.scaling import tool_signal


def demo_group(rng, number, step=0, size=8, skill=0.5):
    a, b = rng.randint(12, 99), rng.randint(12, 99)
    question = f"What is {a} * {b}? Use the python tool if it helps, then answer."
    system = Message("system", "You may call `python(code)`. Put the final number in \\boxed{}.")
    task = Task(f"product-{number:04d}", (system, Message("user", question)), str(a * b), "train")
    members = (demo_response(rng, task, a, b, skill) for _ in range(size))
    return Group(task, tuple(replace(t, policy_version=step) for t in members))


def demo_response(rng, task, a, b, skill):
    """A plausible response: with a call or without, right or wrong, cut short or broken."""
    luck, turns, results = rng.random(), [], []
    observation = task.prompt
    if rng.random() < 0.3 + 0.6 * skill:
        fails = rng.random() < 0.25 * (1 - skill)
        code = f"print({a} * {b}" + ("" if fails else ")")
        call = ToolCall("python", json.dumps({"code": code}), "c1")
        shown = json.dumps({"name": "python", "arguments": {"code": code}})
        text = f"<think>I will multiply {a} and {b}.</think>\n<tool_call>\n{shown}\n</tool_call>"
        output = "SyntaxError: '(' was never closed" if fails else f"{a * b}\n"
        status = ToolStatus.ERROR if fails else ToolStatus.OK
        result = ToolResult(call, output, status, 0.004 + 0.01 * rng.random())
        results.append(result)
        turns.append(Turn(observation, Message("assistant", text), (result,), 0.0, 61))
        observation = (Message("tool", output, tool_call_id="c1", name="python"),)
    correct = luck < skill + 0.25 * bool(results)
    answer = a * b if correct else a * b + rng.choice([-10, 10, 100])
    stop, reward, failure = StopReason.COMPLETED, float(correct), None
    text = f"The product of {a} and {b} is \\boxed{{{answer}}}."
    if rng.random() < 0.05:
        stop, reward, correct = StopReason.MAX_TOKENS, 0.0, False
        text = "<think>Let me break it down. " + f"{a} * {b} = {a} * {b // 10} * 10 + ... " * 12
    elif rng.random() < 0.03:
        stop, reward, correct = StopReason.ENV_ERROR, None, None
        failure = Invalid("sandbox", "the session's process was killed (signal 9)")
    finish = FinishReason.LENGTH if stop is StopReason.MAX_TOKENS else FinishReason.STOP
    turns.append(Turn(observation, Message("assistant", text), (), reward or 0.0, 40, finish))
    return demo_trajectory(task, turns, results, stop, reward, correct, failure, rng)


def demo_trajectory(task, turns, results, stop, reward, correct, failure, rng):
    words = "".join(m.content for t in turns for m in (*t.observation, t.action))
    length = 30 + len(words) // 3
    split = 30 + 2 * (length - 30) // 3
    mask = [False] * 30 + [True] * (split - 30) + [False] * (length - split)
    return Trajectory(
        task_id=task.id,
        env_id="palestra/Products-v0",
        token_ids=tuple(range(length)),
        mask=tuple(mask),
        logprobs=tuple(-rng.random() if m else 0.0 for m in mask),
        prompt_length=30,
        turns=tuple(turns),
        stop_reason=stop,
        reward=reward,
        reward_parts={} if reward is None else {"answer": reward},
        correct=correct,
        failure=failure,
        tools=ToolStats.of(results),
        seed=rng.getrandbits(60),
        duration_s=rng.random() * 3,
    )


def demo_training(folder, steps=40, prompts=4, every=10):
    """A training run that learns, with held-out evaluations kept whole."""
    rng = random.Random(1)
    config = {
        "model": "demo/micro-5M",
        "env": {"id": "palestra/Products-v0", "options": {"digits": 2}},
        "algorithm": "dapo",
        "group_size": 8,
        "steps": steps,
        "seed": 1,
        "learner": {"lr": 3e-4, "clip": [0.2, 0.28]},
    }
    with RunLog.create(folder, config) as log:
        for step in range(steps + 1):
            skill = 0.15 + 0.55 / (1 + math.exp(-(step - steps / 2) / (steps / 8)))
            groups = [
                demo_group(rng, step * prompts + i, step, skill=skill) for i in range(prompts)
            ]
            metrics = tool_signal(groups) | {
                "learner/loss": rng.gauss(0, 0.02),
                "learner/grad_norm": math.nan if step == 3 else 0.5 + 0.1 * rng.random(),
                "learner/entropy": 1.2 * math.exp(-step / steps) + 0.02 * rng.random(),
                "mismatch/kl": 1e-4 * (1 + rng.random()),
                "rollout/tokens_per_s": 24_000 + 900 * rng.random(),
            }
            if step % every == 0:
                held_out = [demo_group(random.Random(i), i, step, 4, skill) for i in range(40)]
                result = EvalResult.of_groups(held_out, name=f"step {step}")
                log.write_evaluation(step, result.to_dict())
                metrics |= result.metrics()
            log.log(step, metrics)
            log.write_groups(step, groups)


def demo_evaluation(folder, tasks=60, size=4, group=demo_group):
    rng = random.Random(2)
    groups = [group(rng, i, size=size) for i in range(tasks)]
    RunLog.create(folder, {"env": "palestra/Products-v0", "model": "demo/micro-5M"}).close()
    lines = JsonLines(folder / "trajectories" / "samples.jsonl")
    for one in groups:
        for index, trajectory in enumerate(one.trajectories):
            sample = {"task": one.task.to_dict(), "sample": index}
            lines.append(sample | {"trajectory": trajectory.to_dict()})
    lines.close()
    write_json(folder / "result.json", EvalResult.of_groups(groups, name="micro-5M").to_dict())
    return groups
