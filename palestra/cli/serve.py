"""`palestra serve ID`: an environment for OpenEnv clients, on this machine or as a package."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from tyro.conf import Positional

from .environment import find, make_environment
from .errors import UsageError
from .parsing import parse


@dataclass(frozen=True)
class Options:
    """Serve an environment to OpenEnv clients, over WebSockets and HTTP, until interrupted.

    Every client has an environment of its own. There is no authentication, and actions may
    run code in the sandbox: only this machine is listened to unless `--host` says otherwise.
    """

    id: Positional[str]
    """Id of the environment, such as palestra/MathCode-v0."""
    env: dict[str, Any] = field(default_factory=dict)
    """Settings of the environment, as --env.KEY VALUE."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for all of this machine's."""
    port: int = 8000
    """Port to listen on; 0 takes a free one."""
    max_sessions: int = 256
    """Episodes at a time; one more is refused."""
    idle_s: float = 600.0
    """Seconds without a message after which a session is closed."""
    step_s: float = 300.0
    """Seconds after which a step is cut off, and its session ended. Not where the environment's
    `respond` is a plain function, nor at a reset: those run to their end."""
    max_message_bytes: int = 2**20
    """Largest message taken."""
    package: str = ""
    """Serve nothing: write an OpenEnv package (manifest, Dockerfile, plan) to this folder."""


EXAMPLES = (
    "palestra/MathCode-v0",
    "palestra/MathCode-v0 --port 8001 --max-sessions 1000 --env.protocol hermes",
    "palestra/Reasoning-v0 --package my_openenv",
)


def main(argv: Sequence[str]) -> int:
    options = parse(Options, argv, command="serve", examples=EXAMPLES)
    from ..envs.core import ChatEnv
    from ..envs.interop.openenv import ServeLimits, serve, write_package
    from ..envs.interop.openenv.home import Home
    from ..envs.registration import description, maker

    first = make_environment(options.id, options.env)  # so that mistakes are told at once
    if not isinstance(first.unwrapped, ChatEnv):
        raise UsageError(f"{options.id} is no chat environment, so it cannot be served")
    first.close()
    if options.package:
        for path in write_package(Path(options.package), options.id, options.env):
            print(path)
        if todo := Home.of(options.id).todo():
            print(f"{options.package}/Dockerfile: {todo}", file=sys.stderr)
        return 0
    make = maker(options.id, **options.env)
    limits = ServeLimits(
        options.max_sessions, options.idle_s, options.step_s, options.max_message_bytes
    )
    id = find(options.id).id
    serve(
        lambda: cast(ChatEnv, make().unwrapped),
        name=id,
        description=description(id) or f"the environment {id}",
        host=options.host,
        port=options.port,
        limits=limits,
        started=lambda address: print(f"{id} is at {address}", flush=True),
    )
    return 0
