"""`python -m palestra.sandbox.docker build`: the image, on a base that the user names."""

from __future__ import annotations

import argparse
import sys

from ..types import SandboxError
from . import image
from .container import connect


def main() -> int:
    """Run the command; 0, or 1 with the reason on standard error."""
    parser = argparse.ArgumentParser(prog="python -m palestra.sandbox.docker")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="put the sandbox's server on top of a local image")
    build.add_argument("--base", required=True, help="an image with Python 3.11 or newer")
    build.add_argument("--tag", default=image.DEFAULT, help="the name of the result")
    asked = parser.parse_args()
    try:
        made = image.build(connect(), asked.base, asked.tag)
    except SandboxError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{asked.tag} {made}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
