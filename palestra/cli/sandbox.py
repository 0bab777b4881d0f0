"""`palestra sandbox`: run a program, see what holds on this machine, and what it costs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

from .errors import UsageError, nearest

COMMANDS = {
    "run": "run a Python file in the sandbox",
    "doctor": "which guarantees hold on this machine, each shown by an attempt",
    "bench": "what runs, calls and forks cost on this machine",
}
EXAMPLES = (
    "palestra sandbox run program.py --wall-s 2",
    "palestra sandbox doctor --require net,fs,memory",
    "palestra sandbox bench --seconds 5",
)


def main(argv: Sequence[str]) -> int:
    if not argv:
        print(_help(), file=sys.stderr)
        return 2
    command, rest = argv[0], argv[1:]
    if command in ("-h", "--help", "help"):
        print(_help())
        return 0
    if command not in COMMANDS:
        hint = nearest(command, COMMANDS) or f"; there are {', '.join(COMMANDS)}"
        raise UsageError(f"unknown command 'sandbox {command}'{hint}")
    code: int = import_module(f".sandbox_{command}", __package__).main(rest)
    return code


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    examples = "\n".join(f"  {line}" for line in EXAMPLES)
    return (
        "usage: palestra sandbox COMMAND [options]\n\n"
        "Python that a model wrote, run on this machine behind walls.\n\n"
        f"commands:\n{commands}\n\n"
        "options:\n"
        "  -h, --help  this text; after a command, that command's options\n\n"
        f"examples:\n{examples}"
    )
