"""Tool use as a measured signal: what each step of training says about itself.

`signal` turns the groups of one step into flat metrics; whatever is fitted to them over
steps reads those metrics from the run folder and needs nothing else.
"""

from .signal import tool_signal

__all__ = ["tool_signal"]
