"""`palestra view RUN`: a run folder as one HTML page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tyro.conf import Positional

from .errors import UsageError
from .parsing import parse


@dataclass(frozen=True)
class Options:
    """Write report.html into a run folder: results, curves and readable transcripts.

    The page is one file that needs nothing else, so it can be sent to somebody.
    """

    run: Positional[Path]
    """The folder of a training run or an evaluation."""
    episodes: int = 1000
    """How many transcripts to include, spread evenly over the run."""
    tokens: bool = False
    """Show transcripts token by token too (loads the tokenizer of the run's model)."""
    open: bool = False
    """Open the page in the browser."""

    def __post_init__(self) -> None:
        if self.episodes < 0:
            raise ValueError(f"episodes must not be negative, got {self.episodes}")


EXAMPLES = ("runs/mine", "runs/mine --tokens --open")


def main(argv: Sequence[str]) -> int:
    options = parse(Options, argv, command="view", examples=EXAMPLES)
    if not options.run.is_dir():
        raise UsageError(f"{options.run} is not a run folder: there is no such folder")
    from ..agents.report import write_report

    decode = decoder(options.run) if options.tokens else None
    path = write_report(options.run, decode=decode, max_responses=options.episodes)
    print(path)
    if options.open:
        import webbrowser

        webbrowser.open(path.resolve().as_uri())
    return 0


def decoder(run: Path) -> Callable[[Sequence[int]], str]:
    """`decode` of the tokenizer that the run was sampled with: its checkpoint's, if it has one."""
    from ..agents.runlog import read_json

    config = read_json(run / "config.json")
    if config.get("engine") == "scripted":
        from ..agents.engines.byte_tokenizer import ByteTokenizer

        return ByteTokenizer().decode
    from ..agents.engines.loading import load_tokenizer

    own = next(iter(run.glob("checkpoints/step-*/tokenizer_config.json")), None)
    tokenizer = load_tokenizer(str(own.parent if own else config["model"]))
    decode: Callable[[Sequence[int]], str] = tokenizer.decode
    return decode
