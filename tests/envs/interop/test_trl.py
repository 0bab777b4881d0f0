"""A `ToolEnv` in TRL's own GRPOTrainer: tools, grade, and an optimizer step."""

from __future__ import annotations

import asyncio
import json

import pytest

trl = pytest.importorskip("trl")
pytestmark = pytest.mark.interop

import torch  # noqa: E402
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM  # noqa: E402
from transformers.utils import get_json_schema  # noqa: E402
from trl import GRPOConfig, GRPOTrainer, chat_template_utils  # noqa: E402

from palestra import register  # noqa: E402
from palestra.envs.core import ToolEnv  # noqa: E402
from palestra.envs.interop.trl import TRLExport, palestra_reward  # noqa: E402
from palestra.envs.types import Message, Task  # noqa: E402
from palestra.sandbox.types import SandboxError  # noqa: E402

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<tool_call>", "</tool_call>")
MATH = "palestra/MathCode-v0"


def lookup(word: str, times: int = 1, kinds: list[str] | None = None) -> str:
    """Look a word up.

    Args:
        word: what to look up
        times: how often
        kinds: where to look
    """
    if word == "broken":
        raise SandboxError("the library is closed")
    return f"{word} is {len(word) * times}"


class Words(ToolEnv):
    def __init__(self, **options):
        tasks = [Task("cat", (Message("user", "How long is cat?"),), "3")]
        super().__init__(tasks=tasks, tools=[lookup], **options)

    def grade(self, task, messages):
        return float(task.reference in messages[-1].content)


register("tests/Words-v0", Words)


def test_tools_become_methods_that_trl_can_read():
    exported = TRLExport("tests/Words-v0")
    environment = exported.environment_factory()
    told = get_json_schema(environment.lookup)["function"]
    assert told["name"] == "lookup" and told["description"] == "Look a word up."
    properties = told["parameters"]["properties"]
    assert properties["word"] == {"type": "string", "description": "what to look up"}
    assert properties["times"]["type"] == "integer" and properties["kinds"]["nullable"]
    assert told["parameters"]["required"] == ["word"]
    python = TRLExport(MATH, {"protocol": "hermes"}).environment_factory().python
    assert get_json_schema(python)["function"]["parameters"]["required"] == ["code"]


def test_what_cannot_be_exported_is_refused():
    with pytest.raises(ValueError, match="hermes"):
        TRLExport(MATH)
    with pytest.raises(ValueError, match="no ToolEnv"):
        TRLExport("palestra/KuhnPoker-v0")


def test_invalid_is_no_reward_and_a_budget_is():
    async def play(*words: str, answer: dict | None):
        exported = TRLExport("tests/Words-v0", {"max_turns": 3})
        environment = exported.environment_factory()
        environment.reset(**exported.rows(1)[0])
        said = [await environment.lookup(word=word) for word in words]
        (score,) = await palestra_reward([[answer] if answer else []], [environment])
        return said, score

    final = {"role": "assistant", "content": "It has 3."}
    call = {"role": "assistant", "content": "3", "tool_calls": [{}]}
    assert asyncio.run(play("cat", answer=final)) == (["cat is 3"], 1.0)
    assert asyncio.run(play("broken", "cat", answer=final)) == (["The episode is over."] * 2, None)
    assert asyncio.run(play("cat", answer=call)) == (["cat is 3"], 0.0)
    assert asyncio.run(play("cat", answer=None)) == (["cat is 3"], 0.0)
    said, score = asyncio.run(play(*["cat"] * 4, answer=final))
    assert said[2:] == ["cat is 3", "The episode is over."] and score == 0.0


def test_the_sandbox_is_reached():
    exported = TRLExport(MATH, {"protocol": "hermes"})
    environment = exported.environment_factory()
    row = exported.rows(1)[0]
    environment.reset(**row)
    assert row["prompt"][-1]["role"] == "user"

    async def play():
        shown = await environment.python(code="x = 6 * 7\nprint(x)")
        return shown, await environment.python(code="print(x + 1)")

    assert asyncio.run(play()) == ("42\n", "43\n")


def tokenizer(corpus: list[str]):
    """Small, with Qwen3's markers and chat template, in which TRL can read calls."""
    base = Tokenizer(models.BPE())
    base.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=list(SPECIAL[:3]),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    base.train_from_iterator(corpus * 2, trainer)
    base.add_tokens(list(SPECIAL[3:]))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=base, eos_token=SPECIAL[1], pad_token=SPECIAL[2], padding_side="left"
    )
    fast.chat_template = chat_template_utils.qwen3_chat_template
    return fast


def taught(tokens, conversations, tools):
    """A tiny model that has learnt conversations by heart, so that it calls the tool."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokens),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokens.eos_token_id,
        pad_token_id=tokens.pad_token_id,
    )
    model = Qwen3ForCausalLM(config).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    texts = [tokens.apply_chat_template(c, tools=tools, tokenize=False) for c in conversations]
    for step in range(160):
        text = texts[step % len(texts)]
        ids = torch.tensor([tokens(text).input_ids])
        labels = ids.clone()
        labels[:, : len(tokens(text[: text.index("<|im_start|>assistant")]).input_ids)] = -100
        model(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.mark.timeout(600)
def test_a_step_of_grpo(tmp_path):
    exported = TRLExport("tests/Words-v0")
    (row,) = exported.rows(1)
    call = {"type": "function", "function": {"name": "lookup", "arguments": {"word": "cat"}}}
    conversations = [  # the second answer is wrong: a group of rollouts disagrees
        [
            *row["prompt"],
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "name": "lookup", "content": "cat is 3"},
            {"role": "assistant", "content": answer},
        ]
        for answer in ("3", "4")
    ]
    schemas = [get_json_schema(exported.environment_factory().lookup)]
    tokens = tokenizer([json.dumps([conversations, schemas])])
    model = taught(tokens, conversations, schemas)
    before = {name: value.clone() for name, value in model.named_parameters()}
    trainer = GRPOTrainer(
        model,
        reward_funcs=exported.reward_funcs,
        environment_factory=exported.environment_factory,
        train_dataset=exported.train_dataset(1),
        processing_class=tokens,
        args=GRPOConfig(
            output_dir=str(tmp_path),
            max_steps=1,
            per_device_train_batch_size=8,
            num_generations=8,
            max_completion_length=128,
            temperature=1.0,
            learning_rate=1e-3,
            logging_steps=1,
            report_to="none",
            use_cpu=True,
            save_strategy="no",
            seed=1,
        ),
    )
    trainer.train()
    logged = {k: v for entry in trainer.state.log_history for k, v in entry.items()}
    assert trainer.state.global_step == 1
    assert logged["tools/call_frequency"] > 0 and logged["tools/failure_frequency"] < 1
    scores = [environment._reward for environment in trainer.environments]
    called = [environment._env.tool_stats.calls for environment in trainer.environments]
    assert len(scores) == 8 and sum(called) > 0
    assert logged["reward"] == pytest.approx(sum(scores) / 8) and logged["reward"] > 0
    assert logged["rewards/palestra_reward/mean"] == pytest.approx(logged["reward"])
    assert logged["reward_std"] > 0
    after = dict(trainer.model.named_parameters())
    assert any(not torch.equal(before[name], after[name]) for name in before)
