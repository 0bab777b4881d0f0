"""Running author code that may be plain or async, from plain and from async callers."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from types import FunctionType
from typing import Any, TypeVar, cast

T = TypeVar("T")


async def maybe_await(value: Any) -> Any:
    """The value, awaited if it is awaitable: hooks may be plain or async."""
    return await value if inspect.isawaitable(value) else value


def is_async(hook: Callable[..., Any]) -> bool:
    """`inspect.iscoroutinefunction`, at a price that every step can pay."""
    function = getattr(hook, "__func__", hook)
    cached = isinstance(function, FunctionType)  # other callables may not be hashable
    return _is_coroutine_function(function) if cached else inspect.iscoroutinefunction(function)


_is_coroutine_function = lru_cache(1024)(inspect.iscoroutinefunction)


class Driver:
    """Runs coroutines to their end for plain callers. A copy starts without a loop."""

    def __init__(self) -> None:
        self._runner: asyncio.Runner | None = None

    def run(self, coroutine: Coroutine[Any, Any, T], needs_loop: bool) -> T:
        """Run to the end, also when the calling thread runs an event loop itself.

        Args:
            needs_loop: False promises that nothing in it suspends, which costs no loop.

        Raises:
            RuntimeError: it suspended all the same.
        """
        if not needs_loop:
            try:
                coroutine.send(None)
            except StopIteration as stop:
                return cast(T, stop.value)
            raise RuntimeError("a plain hook suspended: declare it with `async def`")
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            self._runner = self._runner or asyncio.Runner()
            return self._runner.run(coroutine)
        with ThreadPoolExecutor(1) as thread:  # a notebook, say
            return thread.submit(asyncio.run, coroutine).result()

    def close(self) -> None:
        if self._runner is not None:
            self._runner.close()
            self._runner = None

    def __reduce__(self) -> tuple[type[Driver], tuple[()]]:
        return Driver, ()
