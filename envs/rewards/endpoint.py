"""A chat model behind an OpenAI-compatible endpoint (vLLM, SGLang, llama.cpp, a hosted one).

    judge_model = ChatEndpoint("http://localhost:8000/v1", "Qwen/Qwen3-8B")
    reply = await judge_model.complete([Message("user", "Hello")])

Requests go out on threads of their own, so one endpoint serves any number of event loops and
plain callers. What a server can do wrong is bounded: a body that never ends, or comes a byte at
a time, is given up; redirects are not followed; the key is read from the environment when
it is needed and stored nowhere.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from pydantic import BaseModel, ValidationError

from ..types import Message
from .protocol import JudgeError

if TYPE_CHECKING:
    import httpx2

    from .verdict import VerdictLogprobs

MAX_BODY = 4 << 20  # bytes
_RETRY = {408, 409, 425, 429, 500, 502, 503, 504}
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class ModelReply:
    """What a model answered.

    Attributes:
        finished: False where it was cut at its token limit: no verdict can be read off it.
        first_token: log-probabilities of the likeliest first tokens, by text; empty where
            they were not asked for or the server gives none.
    """

    text: str
    finished: bool = True
    first_token: Mapping[str, float] = field(default_factory=dict)


class ChatModel(Protocol):
    """Whatever answers a conversation: an endpoint, or a policy's own engine behind a function."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What its answers depend on, as JSON values: a part of every cache key.

        Two models that may answer differently must not share one, in this run or a later one.
        """
        ...

    async def complete(
        self, messages: Sequence[Message], *, sample: int = 0, top_logprobs: int = 0
    ) -> ModelReply:
        """Answer once; a different `sample` is an independent answer.

        Raises:
            JudgeError: it failed or was lost.
        """
        ...


class ScoringModel(ChatModel, Protocol):
    """A `ChatModel` that says how likely it is to give each of some verdicts."""

    def verdicts(self) -> VerdictLogprobs:
        """What `by_probability` and its like ask."""
        ...


Model = ChatModel | Mapping[str, Any]  # what settings may give for one


def chat_model(given: object) -> ChatModel | None:
    """The model that a setting stands for, or None where it stands for something else.

    A mapping holds the arguments of `ChatEndpoint`, as recipes and the command line give them.

    Raises:
        ValueError: they are not its arguments.
    """
    if isinstance(given, Mapping):
        try:
            return ChatEndpoint(**given)
        except TypeError as error:
            what = f"a model behind an endpoint is given by url, model, ...; got {dict(given)}"
            raise ValueError(f"{what}: {error}") from error
    return cast(ChatModel, given) if hasattr(given, "complete") else None


class ChatEndpoint:
    """A `ChatModel` over HTTP.

    Args:
        url: the base, to which `/chat/completions` is added.
        api_key_env: name of the environment variable with the key; None sends none.
        timeout_s: for one attempt, from the first byte out to the last byte in.
        retries: further attempts after a lost connection, a timeout, a malformed body, or one
            of the statuses 408, 409, 425, 429, 500, 502, 503, 504.
        back_off_s: before attempt n + 1 a random wait of up to back_off_s * 2^n, at least
            what the server's Retry-After asks (both at most a minute).
        concurrency: requests in flight at once.
        options: further fields of the request, such as `{"top_p": 0.9}`.
    """

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key_env: str | None = None,
        temperature: float = 0.0,
        max_tokens: int = 1024,
        seed: int = 0,
        timeout_s: float = 120.0,
        retries: int = 4,
        back_off_s: float = 0.5,
        concurrency: int = 32,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"an endpoint's url starts with http:// or https://, got {url!r}")
        if concurrency < 1 or retries < 0 or timeout_s <= 0 or back_off_s < 0:
            raise ValueError(
                f"need concurrency >= 1, retries >= 0, timeout_s > 0 and back_off_s >= 0, got "
                f"{concurrency}, {retries}, {timeout_s} and {back_off_s}"
            )
        self.url, self.model, self.api_key_env = url.rstrip("/"), model, api_key_env
        self.temperature, self.max_tokens, self.seed = temperature, max_tokens, seed
        self.timeout_s, self.retries, self.back_off_s = timeout_s, retries, back_off_s
        self.concurrency, self.options = concurrency, dict(options or {})
        self._start()

    def _start(self) -> None:
        self._guard = threading.Lock()
        self._owner = os.getpid()
        self._client: httpx2.Client | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._random = random.Random()

    @property
    def identity(self) -> Mapping[str, Any]:
        """The server, the model and the sampling; a server is taken to keep its weights."""
        return {
            "url": self.url,
            "model": self.model,
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "options": self.options,
        }

    async def complete(
        self, messages: Sequence[Message], *, sample: int = 0, top_logprobs: int = 0
    ) -> ModelReply:
        """See `ChatModel.complete`. `sample` is added to the seed.

        Raises:
            ImportError: httpx2 is not installed.
            JudgeError: no answer within the retries, or one that trying again cannot help.
        """
        request: dict[str, Any] = {
            "model": self.model,
            "messages": [message.to_dict() for message in messages],
            "temperature": self.temperature,
            "max_tokens": self.max_tokens,
            "seed": self.seed + sample,
            **self.options,
        }
        if top_logprobs:
            request |= {"logprobs": True, "top_logprobs": top_logprobs}
        _, threads = self._open()
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(threads, self._ask, request)

    def _open(self) -> tuple[httpx2.Client, ThreadPoolExecutor]:
        try:
            import httpx2
        except ImportError as error:
            raise ImportError("an endpoint needs httpx2: pip install 'palestra[judge]'") from error
        with self._guard:
            if self._client is None or self._threads is None or self._owner != os.getpid():
                # Connections and threads do not cross a fork: a child opens its own.
                limits = httpx2.Limits(max_connections=self.concurrency)
                self._client = httpx2.Client(timeout=self.timeout_s, limits=limits)
                self._threads = ThreadPoolExecutor(self.concurrency, "palestra-endpoint")
                self._owner = os.getpid()
            return self._client, self._threads

    def _ask(self, request: Mapping[str, Any]) -> ModelReply:
        for attempt in range(self.retries + 1):
            try:
                return self._attempt(request)
            except _TransientError as error:
                if attempt == self.retries:
                    tries = f"{attempt + 1} attempts" if attempt else "one attempt"
                    raise JudgeError(f"{self.model}: {error} (after {tries})") from error
                wait = self._random.uniform(0, self.back_off_s * 2**attempt)
                time.sleep(min(max(wait, error.retry_after_s), _LONGEST_WAIT_S))
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _attempt(self, request: Mapping[str, Any]) -> ModelReply:
        import httpx2

        client, _ = self._open()
        deadline = time.monotonic() + self.timeout_s
        # No compression: a small body must not unpack into a large one.
        headers = {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        if self.api_key_env:
            headers["Authorization"] = f"Bearer {self._key()}"
        url, content = f"{self.url}/chat/completions", json.dumps(request).encode()
        body = bytearray()
        try:
            with client.stream("POST", url, content=content, headers=headers) as response:
                for chunk in response.iter_bytes():
                    body += chunk
                    if len(body) > MAX_BODY:
                        raise JudgeError(f"{self.model}: the answer is over {MAX_BODY} bytes")
                    if time.monotonic() > deadline:
                        raise _TransientError(f"no whole answer within {self.timeout_s:g} s")
        except httpx2.HTTPError as error:
            raise _TransientError(f"{type(error).__name__}: {error}") from error
        _check_status(self.model, response.status_code, response.headers, bytes(body))
        return _parse(bytes(body))

    def _key(self) -> str:
        key = os.environ.get(self.api_key_env or "", "")
        if not key:
            raise JudgeError(f"the environment variable {self.api_key_env} holds no key")
        return key

    def close(self) -> None:
        """Close connections and threads. Idempotent; a later request opens them again."""
        with self._guard:
            client, threads, owned = self._client, self._threads, self._owner == os.getpid()
            self._client = self._threads = None
        if client is not None and threads is not None and owned:
            threads.shutdown(wait=True, cancel_futures=True)
            client.close()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if not k.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


class _TransientError(Exception):
    """Trying again may help."""

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


def _check_status(model: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
    if status == 200:
        return
    text = f"HTTP {status}: {body[:200].decode(errors='replace')}"
    if status in _RETRY:
        asked = headers.get("retry-after", "")
        raise _TransientError(text, float(asked) if asked.isdecimal() else 0.0)
    raise JudgeError(f"{model}: {text}")


class _Alternative(BaseModel):
    token: str
    logprob: float


class _Token(_Alternative):
    top_logprobs: list[_Alternative] = []


class _Logprobs(BaseModel):
    content: list[_Token] | None = None


class _Answer(BaseModel):
    content: str | None = None


class _Choice(BaseModel):
    message: _Answer
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Body(BaseModel):
    choices: list[_Choice]


def _parse(body: bytes) -> ModelReply:
    try:
        choice = _Body.model_validate(json.loads(body)).choices[0]
    except (ValidationError, ValueError, IndexError, RecursionError) as error:
        shown = body[:100].decode(errors="replace")
        raise _TransientError(f"the server answered no chat completion: {shown!r}") from error
    tokens = choice.logprobs.content if choice.logprobs else None
    first = {a.token: a.logprob for a in tokens[0].top_logprobs} if tokens else {}
    return ModelReply(choice.message.content or "", choice.finish_reason != "length", first)
