"""The `palestra` program. `dispatch.py` finds the command; each command is a module here.

No code stands in this file: the commands `list` and `eval` are attributes of the package and
would hide the built-ins of those names.
"""

from .dispatch import COMMANDS, main

__all__ = ["COMMANDS", "main"]
