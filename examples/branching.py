#!/usr/bin/env python3
"""Return to a point of an episode and go on in several ways, live interpreter included.

    python examples/branching.py

    three continuations of one episode: [0.0, 1.0, 0.0]

A snapshot holds the conversation, the environment's randomness and a fork of the sandboxed
interpreter, so each continuation finds the variables as they were. This is what tree search
and per-step value estimates are made of.
"""

import palestra
from palestra.envs.types import Message, Task

TASK = Task("t", (Message("user", "What is the largest prime factor of 13195?"),), "29")
FIRST = """```python
n, factors, d = 13195, [], 2
while n > 1:
    while n % d == 0:
        factors.append(d)
        n //= d
    d += 1
```"""


def main() -> None:
    env = palestra.make("palestra/MathCode-v0", tasks=[TASK]).unwrapped
    env.reset(seed=0)
    env.step(FIRST)
    point = env.snapshot()
    rewards = []
    for code in ("factors[0]", "factors[-1]", "len(factors)"):
        env.restore(point)
        observation, *_ = env.step(f"```python\n{code}\n```")
        _, reward, *_ = env.step(f"\\boxed{{{observation[0].content.strip()}}}")
        rewards.append(reward)
    env.close()
    print(f"three continuations of one episode: {rewards}")


if __name__ == "__main__":
    main()
