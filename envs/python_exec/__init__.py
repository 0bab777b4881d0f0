"""Programming with hidden unit tests. Start with `environment.py`, then `README.md`."""

from .environment import PythonExec
from .loading import failing_solutions, load_programs

__all__ = ["PythonExec", "failing_solutions", "load_programs"]
