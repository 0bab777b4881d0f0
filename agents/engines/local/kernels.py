"""Compiles `kernels.cpp` with the machine's own compiler, once, and calls it through ctypes.

torch has no fused CPU kernel for RMSNorm, for the attention of single tokens to the rows of a
cache, or for sampling. Built from its operators these take two thirds of a decode step. Where
there is no compiler, they are built from its operators all the same (`operators.py`).
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from ctypes import POINTER, Structure, c_float, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..loading import cache_folder

log = logging.getLogger(__name__)
SOURCE = Path(__file__).with_name("kernels.cpp")
_FLAGS = [
    *("-std=c++17", "-O3", "-march=native", "-fPIC", "-fopenmp"),
    # Sums in any order, so that they become vector instructions; -ffast-math would do more.
    *("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math"),
    *("-ffinite-math-only", "-fno-math-errno"),
]
_TYPES = {torch.float32: "float32", torch.bfloat16: "bfloat16"}


class AttentionCall(Structure):
    """`Attention` of the source: what the calls for all layers of a forward pass share.

    `rows` and `places` are [tokens] int64, `rotation` is [context, dim / 2] complex64.
    """

    _fields_ = [
        *((name, c_int64) for name in ("tokens", "heads", "kv_heads", "dim", "capacity", "window")),
        *((name, c_float) for name in ("scale", "eps")),
        *((name, c_void_p) for name in ("rows", "places", "rotation", "qk_norm")),
    ]


class Kernels:
    """The compiled functions. Tensors are of a type in `dtypes`, and contiguous but for caches."""

    dtypes = frozenset(_TYPES)

    def __init__(self, compiled: ctypes.CDLL) -> None:
        def bind(name: str, *types: Any) -> Any:
            function = getattr(compiled, name)
            function.restype, function.argtypes = None, types
            return function

        def typed(name: str, *types: Any) -> dict[torch.dtype, Any]:
            return {dtype: bind(f"{name}_{end}", *types) for dtype, end in _TYPES.items()}

        at, size = c_void_p, c_int64
        self._rms_norm = typed("rms_norm", at, at, at, size, size, c_float)
        self._swiglu = typed("swiglu", at, at, size, size)
        self._attention = typed("attention", POINTER(AttentionCall), at, at, at, at)
        self._reduce = typed("reduce_tile", at, at, c_float, at, at, size, size, size, size)
        self._sample = bind("sample", at, at, at, at, at, at, size, size, size)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """[N, H] over the root of its mean square, times weight [H]."""
        out = torch.empty_like(x)
        call = self._rms_norm[x.dtype]
        call(x.data_ptr(), weight.data_ptr(), out.data_ptr(), *x.shape, eps)
        return out

    def swiglu(self, gate_up: Tensor) -> Tensor:
        """silu(gate) * up of [N, 2 * width]: [N, width]."""
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = gate_up.new_empty(rows, width)
        self._swiglu[gate_up.dtype](gate_up.data_ptr(), out.data_ptr(), rows, width)
        return out

    def attention(self, call: AttentionCall, qkv: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Append keys and values to one layer's cache and attend to it: [N, heads * D].

        qkv is [N, (heads + 2 kv_heads) * D], keys and values are [rows, kv_heads, capacity, D]
        in the memory order of a cache that is not dense;
        the capacity is a multiple of 16.
        """
        out = qkv.new_empty(call.tokens, call.heads * call.dim)
        pointers = (qkv.data_ptr(), keys.data_ptr(), values.data_ptr(), out.data_ptr())
        self._attention[qkv.dtype](ctypes.byref(call), *pointers)
        return out

    def reduce_tile(
        self,
        tile: Tensor,
        inverse_temperature: Tensor | None,
        never: float,
        logits: Tensor,
        mass: Tensor,
    ) -> None:
        """Raw logits [N, filled] -> `logits` [N, width]; log-sum-exps -> the front of `mass`."""
        assert inverse_temperature is None or inverse_temperature.dtype == torch.float32
        scale = None if inverse_temperature is None else inverse_temperature.data_ptr()
        sizes = (*tile.shape, logits.shape[1], mass.stride(0))
        call = self._reduce[tile.dtype]
        call(tile.data_ptr(), scale, never, logits.data_ptr(), mass.data_ptr(), *sizes)

    def sample(
        self, logits: Tensor, mass: Tensor, uniform: Tensor, greedy: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """See `sampling.sample`; logits [tiles, N, width], mass [N, chunks] are float32."""
        tiles, rows, width = logits.shape
        ids, logprobs = mass.new_empty(rows, dtype=torch.int64), mass.new_empty(rows)
        inputs = (logits.data_ptr(), mass.data_ptr(), uniform.data_ptr())
        chosen = None if greedy is None else greedy.data_ptr()
        self._sample(*inputs, chosen, ids.data_ptr(), logprobs.data_ptr(), tiles, rows, width)
        return ids, logprobs


@cache
def load_kernels() -> Kernels | None:
    """The kernels, compiled on first use; None where this machine cannot have them.

    `PALESTRA_KERNELS=0` turns them off, `CXX` names another compiler.
    """
    if os.environ.get("PALESTRA_KERNELS") == "0" or platform.system() != "Linux":
        return None
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        log.info("no C++ compiler: the local engine decodes with torch's operators alone")
        return None
    try:
        return Kernels(ctypes.CDLL(str(_built(compiler))))
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("the local engine's kernels do not compile here, it runs slower: %s", error)
        return None


def _built(compiler: str) -> Path:
    """Path of the shared library, compiled if it is not there yet."""
    # The library uses what this processor has, and a home folder may be shared by several.
    marks = [SOURCE.read_text(), compiler, *_FLAGS, _processor()]
    key = hashlib.sha256("\0".join(marks).encode()).hexdigest()[:16]
    target = cache_folder() / f"kernels-{key}.so"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            _compile(compiler, Path(folder)).replace(target)
    return target


def _compile(compiler: str, folder: Path) -> Path:
    parts, whole = str(folder / "kernels.o"), str(folder / "kernels.so")
    # Linked without -fopenmp: it is to use the OpenMP that torch brought, not load another.
    for command in (
        [compiler, *_FLAGS, "-c", str(SOURCE), "-o", parts],
        [compiler, "-shared", parts, "-o", whole],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise OSError(f"{' '.join(command)} failed: {done.stderr[-500:]}")
    return Path(whole)


def _processor() -> str:
    lines = set(Path("/proc/cpuinfo").read_text().splitlines())
    return "\n".join(sorted(x for x in lines if x.startswith(("model name", "flags", "Features"))))
