"""An audit of an environment that needs no model. Start with `audit`."""

from .audit import CHECKS, Finding, Status, audit, passed
from .subject import Subject

__all__ = ["CHECKS", "Finding", "Status", "Subject", "audit", "passed"]
