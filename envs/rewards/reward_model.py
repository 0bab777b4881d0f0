"""Scalar reward models: any `AutoModelForSequenceClassification` of transformers.

    reward = RewardModel("path/to/Skywork-Reward-style-model")
    await reward(task, messages)  # its logit for the conversation, thoughts left out

Requests that wait while a batch runs form the next batch, so episodes that finish together
are scored together without anybody waiting for a timer. torch and transformers are imported
when the first score is asked for.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..types import Invalid, Message, Task
from .cache import Cache, Memo, content_key
from .protocol import Messages
from .thinking import answer_to_score, of_replies

Conversation = Sequence[Mapping[str, str]]


class RewardModel:
    """A reward: the logit that a sequence classifier gives a conversation.

    System and tool messages are left out (they hold instructions to the policy), and every
    assistant turn is reduced to its answer by `answer_of`. Special tokens that the
    policy spells out are broken up, so that it cannot end its turn and write the next one.

    Args:
        path: a folder or hub name; its tokenizer's chat template renders the conversation. A
            tokenizer without one gets the pair (everything before the answer, answer). Scores
            are kept by the names, sizes and times of the folder's files; those of a hub name
            without a `revision`, which may stand for other weights tomorrow, for this object
            only.
        label: which logit, for a model with several.
        max_length: in tokens; longer conversations lose their beginning.
        answer_of: what of an assistant turn is shown (default: strict extraction of
            `<response>`, see `thinking.py`; `str` shows all of it).
        cache: of scores by content; by default one in memory.
        options: for `from_pretrained`, e.g. `{"dtype": "bfloat16", "revision": "..."}`.
    """

    def __init__(
        self,
        path: str,
        *,
        device: str = "cpu",
        label: int | None = None,
        batch_size: int = 16,
        max_length: int = 4096,
        answer_of: Callable[[str], str] = answer_to_score,
        cache: Cache | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if batch_size < 1 or max_length < 1:
            raise ValueError(
                f"batch_size and max_length must be positive, got {batch_size} and {max_length}"
            )
        self.path, self.device, self.label = path, device, label
        self.batch_size, self.max_length = batch_size, max_length
        self.answer_of = answer_of
        self.options = dict(options or {})
        self.memo = Memo(cache)
        self._start()

    def _start(self) -> None:
        self._loaded: tuple[Any, Any] | None = None
        self._weights = ""  # which ones are loaded
        self._unknown = uuid4().hex
        self._waiting: deque[tuple[Conversation, Future[float]]] = deque()
        self._guard = threading.Lock()
        self._thread: ThreadPoolExecutor | None = None

    async def __call__(self, task: Task, messages: Messages) -> float | Invalid:
        """Score a finished conversation. A model that fails is `Invalid("judge")`."""
        conversation = self.shown(messages, task.prompt)
        key = content_key(
            kind="reward-model",
            path=self.path,
            weights=self._weights or self._fingerprint(),
            label=self.label,
            max_length=self.max_length,
            options={name: str(value) for name, value in self.options.items()},
            conversation=list(conversation),
        )
        known: float | Invalid = await self.memo(key, lambda: self._ask(conversation))
        return known

    def _fingerprint(self) -> str:
        """Which weights `path` stands for now, told without reading them."""
        folder = Path(self.path)
        if not folder.is_dir():
            return str(self.options.get("revision") or self._unknown)
        stats = [(str(f), f.stat()) for f in sorted(folder.rglob("*")) if f.is_file()]
        return content_key(files=[(name, s.st_size, s.st_mtime_ns) for name, s in stats])

    async def _ask(self, conversation: Conversation) -> float | Invalid:
        try:
            score = await asyncio.wrap_future(self._submit(conversation))
        except Exception as error:  # noqa: BLE001 - the reward boundary
            return Invalid("judge", f"{self.path}: {type(error).__name__}: {error}")
        if not math.isfinite(score):
            return Invalid("judge", f"{self.path}: the score is {score}")
        return score

    def shown(
        self, messages: Sequence[Message], prompt: Sequence[Message] = ()
    ) -> list[dict[str, str]]:
        """What the model is shown of a conversation; the prompt's own turns as they are."""
        answer_of = of_replies(self.answer_of, prompt)
        turns = []
        for message in messages:
            if message.role == "user":
                turns.append({"role": "user", "content": message.content})
            elif message.role == "assistant" and not message.tool_calls:
                turns.append({"role": "assistant", "content": answer_of(message.content)})
        return turns

    def score(self, conversations: Sequence[Conversation]) -> list[float]:
        """Scores of conversations as they are, in batches; blocks.

        Raises:
            ImportError, OSError: transformers or the model is missing.
            ValueError: the model has several labels and `label` names none.
        """
        return [
            score
            for start in range(0, len(conversations), self.batch_size)
            for score in self._score_batch(conversations[start : start + self.batch_size])
        ]

    def _submit(self, conversation: Conversation) -> Future[float]:
        future: Future[float] = Future()
        with self._guard:
            self._waiting.append((conversation, future))
            if self._thread is None:
                self._thread = ThreadPoolExecutor(1, "palestra-reward-model")
            self._thread.submit(self._drain)
        return future

    def _drain(self) -> None:
        with self._guard:
            size = min(self.batch_size, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(size)]
        live = [(c, future) for c, future in batch if future.set_running_or_notify_cancel()]
        if not live:
            return
        try:
            scores = self._score_batch([conversation for conversation, _ in live])
        except Exception as error:  # noqa: BLE001 - handed to everybody who waits
            for _, future in live:
                future.set_exception(error)
            return
        for (_, future), score in zip(live, scores, strict=True):
            future.set_result(score)

    def _score_batch(self, conversations: Sequence[Conversation]) -> list[float]:
        import torch

        model, tokenizer = self._load()
        rows = [self._encode(tokenizer, conversation) for conversation in conversations]
        pad = _padding(tokenizer, rows)
        model.config.get_text_config().pad_token_id = pad  # decoders find a row's end by it
        width = max(len(row["input_ids"]) for row in rows)
        batch = {
            name: torch.tensor([_widened(row[name], width, name, pad) for row in rows])
            for name in rows[0]
        }
        with torch.inference_mode():
            logits = model(**{k: v.to(self.device) for k, v in batch.items()}).logits.float()
        scores: list[float] = logits[:, self.label or 0].tolist()
        return scores

    def _encode(self, tokenizer: Any, conversation: Conversation) -> Any:
        turns = [{**turn, "content": _inert(tokenizer, turn["content"])} for turn in conversation]
        options = {"truncation": True, "max_length": self.max_length}
        if tokenizer.chat_template:
            text = tokenizer.apply_chat_template(turns, tokenize=False)
            # The template writes the special tokens itself.
            return tokenizer(text, add_special_tokens=False, **options)
        before = "\n\n".join(turn["content"] for turn in turns[:-1])
        return tokenizer(before, turns[-1]["content"], **options)

    def _load(self) -> tuple[Any, Any]:
        if self._loaded is None:
            try:
                from transformers import AutoModelForSequenceClassification, AutoTokenizer
            except ImportError as error:
                raise ImportError(
                    "a reward model needs transformers: pip install 'palestra[train]'"
                ) from error
            weights = self._fingerprint()
            chosen = {k: self.options[k] for k in ("revision",) if k in self.options}
            tokenizer = AutoTokenizer.from_pretrained(self.path, truncation_side="left", **chosen)
            model = AutoModelForSequenceClassification.from_pretrained(self.path, **self.options)
            self._check_label(model.config.num_labels)
            self._loaded, self._weights = (model.to(self.device).eval(), tokenizer), weights
        return self._loaded

    def _check_label(self, num_labels: int) -> None:
        if self.label is None and num_labels != 1:
            raise ValueError(
                f"{self.path} has {num_labels} labels: say which logit is the reward with label="
            )
        if self.label is not None and not 0 <= self.label < num_labels:
            raise ValueError(f"label must be in 0..{num_labels - 1}, got {self.label}")

    def close(self) -> None:
        """Drop the model and end the thread. Idempotent; a later use loads it again."""
        if self._thread is not None:
            self._thread.shutdown(wait=True)
        self._start()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if not k.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()


def _padding(tokenizer: Any, rows: Sequence[Mapping[str, list[int]]]) -> int:
    """The id to pad with. A classifier on a decoder reads its score at the last token that is
    not padding, so padding with the end token would make it read one token too early."""
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return int(tokenizer.pad_token_id)
    used = {token for row in rows for token in row["input_ids"]}
    return next(token for token in range(len(tokenizer)) if token not in used)


def _widened(values: list[int], width: int, name: str, pad: int) -> list[int]:
    filler = pad if name == "input_ids" else 0
    return values + [filler] * (width - len(values))


def _inert(tokenizer: Any, text: str) -> str:
    """The text with a space inside every special token that it spells out."""
    for token in sorted(tokenizer.get_added_vocab(), key=len, reverse=True):
        if len(token) > 1 and token in text:
            text = text.replace(token, f"{token[0]} {token[1:]}")
    return text
