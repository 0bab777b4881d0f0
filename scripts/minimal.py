#!/usr/bin/env python3
"""The whole idea in one file: an agent learns to use a tool from outcome reward alone.

    python scripts/minimal.py              # about a minute on two cores

A 100k-parameter transformer is taught a little arithmetic notation, in which asking Python
is a rare habit and most products are guessed wrong. Then it plays `palestra/MathCode-v0`
(a real Gymnasium environment, a real sandbox behind it) and is trained with DAPO's loss.
Everything between the environment and the gradient is written out here; the library does
the same with any model, faster and with every edge case (see trainers/online.py).
"""

import argparse
import random

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import palestra
from palestra.envs.core import ToolEnv
from palestra.envs.types import Message, Task

# 1. Tokens. A word-level vocabulary keeps episodes at a dozen tokens.
WORDS = ["<pad>", "<end>", "What is ", "?", " * ", "```python\nprint(", ")\n```"]
WORDS += ["\n```output\n", "\n```\n", "\\boxed{", "}", *"0123456789"]
ID = {word: i for i, word in enumerate(WORDS)}
PAD, END, CLOSE = ID["<pad>"], ID["<end>"], ID[")\n```"]


def encode(text: str) -> list[int]:
    ids = []
    while text:
        word = next(w for w in WORDS if text.startswith(w))
        ids.append(ID[word])
        text = text[len(word) :]
    return ids


def decode(ids: list[int]) -> str:
    return "".join(WORDS[i] for i in ids if i not in (PAD, END))


# 2. The policy: a two-layer transformer. logits[b, t] predict token t + 1.
class Policy(nn.Module):
    def __init__(self, width: int = 64, layers: int = 2, context: int = 48) -> None:
        super().__init__()
        self.tokens = nn.Embedding(len(WORDS), width)
        self.places = nn.Embedding(context, width)
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.body = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, len(WORDS))

    def forward(self, ids_BT: Tensor) -> Tensor:
        T = ids_BT.shape[1]
        x_BTD = self.tokens(ids_BT) + self.places(torch.arange(T))
        causal = nn.Transformer.generate_square_subsequent_mask(T)
        return self.head(self.body(x_BTD, mask=causal, is_causal=True))


def padded(rows: list[list[int]]) -> Tensor:
    width = max(map(len, rows))
    return torch.tensor([row + [PAD] * (width - len(row)) for row in rows])


# 3. The habit to start from: 5 % of documents ask Python, the others guess the product.
def document(rng: random.Random) -> list[int]:
    a, b = rng.randint(10, 99), rng.randint(10, 99)
    question = f"What is {a} * {b}?"
    if rng.random() < 0.5:  # learn to copy a number, whatever for
        number = str(rng.randint(100, 9999))
        question, reply = f"What is {number}?", f"\\boxed{{{number}}}"
    elif rng.random() < 0.05:
        reply = f"```python\nprint({a} * {b})\n```\n```output\n{a * b}\n```\n\\boxed{{{a * b}}}"
    else:
        reply = f"\\boxed{{{abs(a * b + rng.randint(-400, 400))}}}"
    return [*encode(question + reply), END]


def pretrain(policy: Policy, steps: int) -> None:
    rng = random.Random(0)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=2e-3)
    for step in range(steps):
        ids = padded([document(rng) for _ in range(64)])
        loss = F.cross_entropy(
            policy(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), ignore_index=PAD
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 200 == 0:
            print(f"pretraining step {step:4}  loss {loss.item():.2f}")


# 4. Rollouts. An episode holds exactly the ids that were sampled or observed; `mask` is 1
# where the policy chose, and `logps` are the sampler's.
class Episode:
    def __init__(self, env: ToolEnv, task: Task) -> None:
        self.env = env
        observation, _ = env.reset(seed=0, options={"task": task})
        self.ids = encode(observation[-1].content)
        self.mask, self.logps = [0] * len(self.ids), [0.0] * len(self.ids)
        self.turn, self.reward, self.done = len(self.ids), 0.0, False

    def sampled(self, token: int, logp: float) -> None:
        self.ids.append(token)
        self.mask.append(1)
        self.logps.append(logp)
        if token in (END, CLOSE):
            self.act()
        elif len(self.ids) > 40:
            self.done = True  # out of tokens: truncated, reward 0

    def act(self) -> None:
        text = decode(self.ids[self.turn :])
        observation, reward, ended, cut, _ = self.env.step(text)
        self.reward, self.done = float(reward), ended or cut
        for message in observation:  # tool output: seen by the policy, not its doing
            shown = self.env.protocol.show(message.content, text)
            try:
                new = encode(shown)
            except StopIteration:  # an error message has words this vocabulary lacks
                self.done = True
                return
            self.ids += new
            self.mask += [0] * len(new)
            self.logps += [0.0] * len(new)
        self.turn = len(self.ids)


@torch.no_grad()
def play(policy: Policy, episodes: list[Episode]) -> None:
    while running := [e for e in episodes if not e.done]:
        logits = policy(padded([e.ids for e in running]))
        last = torch.tensor([len(e.ids) - 1 for e in running])
        logp_BV = logits[torch.arange(len(running)), last].log_softmax(-1)
        tokens = torch.multinomial(logp_BV.exp(), 1).squeeze(1)
        for episode, token, row in zip(running, tokens.tolist(), logp_BV, strict=True):
            episode.sampled(token, row[token].item())


# 5. DAPO: advantages within a group, clip-higher, mean over all tokens, groups without
# signal left out.
def loss_of(policy: Policy, groups: list[list[Episode]]) -> Tensor | None:
    rows: list[tuple[Episode, float]] = []
    for group in groups:
        rewards = torch.tensor([e.reward for e in group])
        if rewards.std() > 0:
            advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-6)
            rows += zip(group, advantages.tolist(), strict=True)
    if not rows:
        return None
    ids = padded([e.ids for e, _ in rows])
    mask = padded([e.mask for e, _ in rows])[:, 1:].float()
    old = torch.tensor([e.logps + [0.0] * (ids.shape[1] - len(e.logps)) for e, _ in rows])[:, 1:]
    advantage = torch.tensor([a for _, a in rows])[:, None]
    new = policy(ids[:, :-1]).log_softmax(-1).gather(2, ids[:, 1:, None]).squeeze(2)
    ratio = (new - old).exp()
    surrogate = torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.28) * advantage)
    return -(surrogate * mask).sum() / mask.sum()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pretrain-steps", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    torch.manual_seed(0)
    policy, rng = Policy(), random.Random(1)
    pretrain(policy, options.pretrain_steps)
    optimiser = torch.optim.AdamW(policy.parameters(), lr=5e-4)
    tasks = [Task("", (Message("user", "What is 1 * 1?"),), "1")]
    envs = [palestra.make("palestra/MathCode-v0", tasks=tasks, instructions="") for _ in range(128)]
    for step in range(options.steps + 1):
        groups = []
        for i in range(8):
            a, b = rng.randint(10, 99), rng.randint(10, 99)
            task = Task(f"{a}*{b}", (Message("user", f"What is {a} * {b}?"),), str(a * b))
            groups.append([Episode(env.unwrapped, task) for env in envs[16 * i : 16 * i + 16]])
        episodes = [e for group in groups for e in group]
        play(policy, episodes)
        loss = loss_of(policy, groups)
        if loss is not None:
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimiser.step()
        reward = sum(e.reward for e in episodes) / len(episodes)
        tool = sum(e.env.tool_stats.calls > 0 for e in episodes) / len(episodes)
        print(f"step {step:3}  reward {reward:.2f}  share of answers that used the tool {tool:.2f}")
    for env in envs:
        env.close()


if __name__ == "__main__":
    main()
