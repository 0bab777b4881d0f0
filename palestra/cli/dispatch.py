"""The `palestra` program: a table of commands, each a module that is imported when called.

Nothing here imports anything heavy, so `palestra --help` is instant. A command module has
one entry, `main(argv) -> int`, and can be called on its own.

Exit codes: 0 the command did what it was asked; 1 it ran and failed; 2 it was misused.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from .errors import ConfigError, UsageError, nearest

COMMANDS = {
    "quickstart": "train a small policy on this machine and show what came of it",
    "list": "the environments that can be made",
    "info": "the card of one environment: prompt, tools, rewards, splits",
    "new": "make a package with an environment of your own",
    "check": "audit an environment, with no model",
    "play": "play an environment yourself, in the terminal",
    "eval": "measure a model or a scripted agent on environments",
    "train": "train a policy from a recipe",
    "serve": "serve an environment to OpenEnv clients",
    "view": "turn a run folder into one HTML page",
    "sandbox": "run code behind walls, see what holds here and what it costs",
}

EXAMPLES = (
    "palestra list",
    "palestra info palestra/MathCode-v0",
    "palestra train recipe.toml --steps 20",
)

# The extra that brings a module, where it is not the module's own name.
EXTRAS = {
    **dict.fromkeys(("torch", "transformers", "tokenizers", "safetensors", "accelerate"), "train"),
    "gguf": "train",
    "vllm": "vllm",
    "datasets": "data",
    "pyarrow": "data",
}

# What a command may raise for reasons that a user can act on. Anything else is a defect of
# Palestra, and its traceback is what a report of it needs.
EXPECTED = (ValueError, OSError, RuntimeError, ImportError, LookupError, ArithmeticError)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code of the process."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [a for a in args if a != "--debug"]
    _see_current_folder()
    try:
        return _dispatch(args)
    except (UsageError, ConfigError, FileExistsError) as error:  # nothing is ever overwritten
        if debug:
            raise
        return _fail(error, code=2)
    except KeyboardInterrupt as stop:
        print(": ".join(["interrupted", *map(str, stop.args)]), file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) has left: nothing to say, nobody to hear
        _silence_stdout()
        return 0
    except EXPECTED as error:
        if debug:
            raise
        return _fail(error, code=1)
    except ExceptionGroup as group:  # of episodes that ran side by side: one speaks for all
        first = _first(group)
        if debug or not isinstance(first, EXPECTED):
            raise
        return _fail(first, code=1)


def _dispatch(args: list[str]) -> int:
    if not args:
        print(_help(), file=sys.stderr)
        return 2
    command, rest = args[0], args[1:]
    if command in ("-h", "--help", "help"):
        print(_help())
        return 0
    if command in ("-V", "--version"):
        from .. import __version__

        print(f"palestra {__version__}")
        return 0
    if command not in COMMANDS:
        hint = nearest(command, COMMANDS) or f"; there are {', '.join(COMMANDS)}"
        raise UsageError(f"unknown command {command!r}{hint}")
    code: int = import_module(f".{command}", __package__).main(rest)
    return code


def _see_current_folder() -> None:
    """Modules that ids and engines name are found here too, as under `python -m`.

    Last, so that no file lying here can take the place of an installed module.
    """
    if not sys.flags.safe_path and not {"", str(Path.cwd())} & set(sys.path):
        sys.path.append(str(Path.cwd()))


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    examples = "\n".join(f"  {line}" for line in EXAMPLES)
    return (
        "usage: palestra COMMAND [options]\n\n"
        "A gym for language-model agents.\n\n"
        f"commands:\n{commands}\n\n"
        "options:\n"
        "  -h, --help     this text; after a command, that command's options\n"
        "  -V, --version  the version\n"
        "  --debug        show tracebacks\n\n"
        f"examples:\n{examples}"
    )


def _fail(error: Exception, code: int) -> int:
    # KeyError quotes its text; the first argument is the text itself.
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    line = " ".join(text.split()) or type(error).__name__
    if isinstance(error, ModuleNotFoundError) and (extra := EXTRAS.get(error.name or "")):
        line = f"{line}: this needs `pip install 'palestra[{extra}]'`"
    print(f"palestra: {line}", file=sys.stderr)
    return code


def _first(group: ExceptionGroup[Exception]) -> Exception:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, ExceptionGroup) else error


def _silence_stdout() -> None:
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
