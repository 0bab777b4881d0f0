"""Which package an environment comes from, and how a container gets it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.metadata import Distribution, entry_points, packages_distributions
from shlex import quote
from urllib.parse import unquote, urlsplit

from ...registration import ENTRY_POINT_GROUP, creator, spec

WHEELS = "wheels"


@dataclass(frozen=True)
class Home:
    """Where an environment is defined.

    Attributes:
        module: the top-level module.
        requirement: what pip installs it by; empty where no installed package holds it.
        project: the folder that it was installed from; empty for one from an index.
    """

    module: str
    requirement: str = ""
    project: str = ""

    @classmethod
    def of(cls, id: str) -> Home:
        module = (id.rpartition(":")[0] or creator(spec(id)).__module__).partition(".")[0]
        found = _distribution(module)
        if found is None:
            return cls(module)
        origin = json.loads(found.read_text("direct_url.json") or "{}")
        url = urlsplit(origin.get("url", ""))
        project = unquote(url.path) if url.scheme == "file" else ""
        return cls(module, f"{found.name}=={found.version}", project)

    def dockerfile(self) -> str:
        """The lines that install it beside Palestra; none where it is Palestra's own."""
        if self.module == "palestra":
            return ""
        if not self.requirement:
            return f"# {self.todo()}\n"
        if not self.project:
            return f'RUN pip install --no-cache-dir "{self.requirement}"\n'
        return (
            f"# {self.todo()}\n"
            f"COPY {WHEELS} /{WHEELS}\n"
            f'RUN pip install --no-cache-dir --find-links /{WHEELS} "{self.requirement}"\n'
        )

    def todo(self) -> str:
        """What is to be done before the image can be built; empty for nothing."""
        if self.module == "palestra" or (self.requirement and not self.project):
            return ""
        if not self.requirement:
            return (
                f"{self.module} belongs to no installed package, so the image cannot import it: "
                f"make it a package, or copy it in here"
            )
        return (
            f"{self.requirement} was installed from a folder: before building, run "
            f"`pip wheel --no-deps --wheel-dir {WHEELS} {quote(self.project)}` beside this file"
        )


def _distribution(module: str) -> Distribution | None:
    """The installed package that holds a top-level module."""
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.module.partition(".")[0] == module and point.dist is not None:
            return point.dist
    names = packages_distributions().get(module)  # not every editable install is in it
    return Distribution.from_name(names[0]) if names else None
