"""An OpenEnv package of an environment: what its tools validate, build and deploy."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core import ChatEnv
from ...registration import extra, make
from ...spaces import as_action
from .home import Home

DOCKERFILE = """\
FROM python:3.12-slim
RUN useradd --create-home player
ARG PALESTRA=palestra[{extras}]
RUN pip install --no-cache-dir "$PALESTRA"
{home}USER player
EXPOSE 8000
CMD {command}
"""
MAX_EPISODE_S = 3600.0
FLOOR_MARGIN = 0.1


def write_package(folder: Path, id: str, options: Mapping[str, Any] | None = None) -> list[Path]:
    """Write `openenv.yaml`, a Dockerfile and the validator's plan for an environment.

    The plan plays the environment's oracle for one episode, where it has one. The Dockerfile
    installs Palestra with the extras that it takes (`--build-arg PALESTRA=...` names another
    source), and the package that the environment comes from (`Home`).

    Returns:
        The files written.

    Raises:
        FileExistsError: the folder holds something.
        ValueError: no such environment or options, or its reward is unbounded, which a
            manifest must not declare.
    """
    env = make(id, **(options or {})).unwrapped
    if not isinstance(env, ChatEnv):
        raise ValueError(f"{id} is no chat environment, so it cannot be served")
    low, high = env.reward_range
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(
            f"{id} has the reward range {env.reward_range}, and a manifest declares a finite one: "
            f"give its option reward_range, if it has one"
        )
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: choose another folder")
    extras = ",".join(dict.fromkeys(filter(None, ("serve", extra(id)))))
    files = {
        # JSON is YAML, and needs no library.
        "openenv.yaml": json.dumps(_manifest(id, low, high), indent=2) + "\n",
        "Dockerfile": DOCKERFILE.format(
            extras=extras,
            home=Home.of(id).dockerfile(),
            command=json.dumps(command(id, options or {})),
        ),
        "validation/runtime.json": json.dumps(_plan(env), indent=2) + "\n",
    }
    env.close()
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [folder / name for name in files]


def command(id: str, options: Mapping[str, Any]) -> list[str]:
    """The command line that serves an environment to other machines, on port 8000."""
    settings = (part for key, value in options.items() for part in (f"--env.{key}", _toml(value)))
    return ["palestra", "serve", id, *settings, "--host", "0.0.0.0", "--port", "8000"]


def _manifest(id: str, low: float, high: float) -> dict[str, Any]:
    name = id.rpartition(":")[2].replace("/", "-").lower()
    return {
        "spec_version": 1,
        "name": name,
        "version": name.rpartition("-v")[2] or "0",
        "type": "space",
        "runtime": "palestra",
        "port": 8000,
        "validation": {
            "reward": {"range": [low, high], "oracle_tolerance": 0.0, "floor_margin": FLOOR_MARGIN},
            "resources": {
                "cpu": 1.0,
                "memory_mb": 2048,
                "disk_mb": 1024,
                "episode_timeout_s": MAX_EPISODE_S,
            },
            "capabilities": {"verifier": {"kind": "reward_channel"}},
            "types": {"tags": ["chat"]},
            "execution": {
                "kind": "openenv_ws",
                "probe_path": "validation/runtime.json",
                "dockerfile": "Dockerfile",
            },
        },
    }


def _plan(env: ChatEnv) -> dict[str, Any]:
    env.reset(seed=0, options={"task": 0})
    actions = [as_action(a) for a in env.oracle(env.task)] or [as_action("I do not know.")]
    return {
        "plan_schema_version": "1",
        "reset": {"episode_id": "validation-0", "seed": 0, "options": {"task": 0}},
        "actions": [
            {"content": a.content, "tool_calls": [call.to_dict() for call in a.tool_calls]}
            for a in actions
        ],
    }


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)
