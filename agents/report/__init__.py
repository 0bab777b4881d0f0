"""One HTML file for a run: facts, results, curves and every transcript that fits.

The file opens by double click and can be attached to an issue: styles, script, charts and
data are inside, nothing is fetched, and text from a transcript is never treated as markup.
"""

from .write import write_report

__all__ = ["write_report"]
