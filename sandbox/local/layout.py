"""Which host files a session may read: the standard library, the C libraries, and the
preloaded packages with what they depend on. Nothing else of site-packages is shown, so
neither answers shipped inside some package nor the caller's own code are readable.
"""

# Paths here are plain strings: most go straight into system calls.
# ruff: noqa: PTH110, PTH112, PTH119, PTH120, PTH207

from __future__ import annotations

import glob
import importlib.machinery
import importlib.metadata as metadata
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field

SITE = "/site"  # where the packages appear
_C_LIBRARIES = ("/lib64", "/usr/lib64", "/lib", "/usr/lib")
_DEVICES = ("null", "zero", "full", "random", "urandom")
_MANY = 24  # more shared libraries than this beside the interpreter: show their folder


@dataclass
class Layout:
    """What the private root is made of: `binds` maps a path inside to one on the host."""

    binds: dict[str, str] = field(default_factory=dict)
    masks: list[str] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    path: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)  # empty ones


def plan(preload: list[str], site: list[str], *, interpreter: bool = False) -> Layout:
    """The layout for this interpreter. `site` is the caller's `sys.path`.

    With `interpreter` it is there to be run, too.
    """
    layout = Layout()
    stdlib = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")}
    layout.path = [entry for entry in sys.path if entry]
    for folder in sorted(filter(os.path.isdir, stdlib)):
        layout.binds[folder] = folder
        for extra in ("site-packages", "dist-packages"):
            if os.path.isdir(f"{folder}/{extra}"):
                layout.masks.append(f"{folder}/{extra}")
    _add_c_libraries(layout)
    for name in _DEVICES:
        layout.binds[f"/dev/{name}"] = f"/dev/{name}"
    if os.path.isdir("/usr/share/zoneinfo"):
        layout.binds["/usr/share/zoneinfo"] = "/usr/share/zoneinfo"
    for name in preload:
        if name.partition(".")[0] not in sys.stdlib_module_names:
            for source in _package_files(name.partition(".")[0], site):
                layout.binds[f"{SITE}/{os.path.basename(source)}"] = source
    layout.path.append(SITE)
    if interpreter:
        _add_interpreter(layout)
    return layout


def interpreter() -> str:
    """The program that runs this code, behind virtual environments and links."""
    own: str = getattr(sys, "_base_executable", sys.executable)
    return os.path.realpath(own)


def _add_interpreter(layout: Layout) -> None:
    """The program itself under its usual names, and a place for the memory that forks share."""
    program = interpreter()
    layout.binds[program] = program
    for name in ("python", "python3"):
        link = f"{os.path.dirname(program)}/{name}"
        if link != program:
            layout.links[link] = program
    layout.folders.append("/dev/shm")


def _add_c_libraries(layout: Layout) -> None:
    """The loader's folders, narrowed to the multiarch one where there is one."""
    multiarch = sysconfig.get_config_var("MULTIARCH") or ""
    for folder in _C_LIBRARIES:
        real = os.path.realpath(folder)
        if not os.path.isdir(real):
            continue
        narrow = f"{real}/{multiarch}"
        if multiarch and os.path.isdir(narrow):
            layout.binds[narrow] = narrow
        elif real not in ("/usr/lib", "/lib") or not multiarch or not _debian():
            layout.binds[real] = real
        if real != folder:
            layout.links[folder] = real
    home = f"{sys.base_prefix}/lib"
    if os.path.realpath(home) in map(os.path.realpath, _C_LIBRARIES):
        return
    libraries = sorted(glob.glob(f"{home}/*.so*"))
    if len(libraries) > _MANY:
        layout.binds = {home: home} | layout.binds
    else:
        layout.binds |= {library: library for library in libraries}


def _debian() -> bool:
    return any(glob.glob("/usr/lib/*-linux-gnu"))


def _package_files(name: str, site: list[str]) -> Iterator[str]:
    """Top-level files and folders of a package and of the distributions it requires."""
    folders = [folder for folder in site if folder and os.path.isdir(folder)]
    waiting, seen = [name], set[str]()
    while waiting:
        wanted = waiting.pop()
        if wanted in seen:
            continue
        seen.add(wanted)
        found = next(iter(metadata.distributions(name=wanted, path=folders)), None)
        if found is None:
            yield from _bare_module(wanted, folders)
            continue
        root = str(found.locate_file(""))
        tops = {str(file).partition("/")[0] for file in found.files or ()}
        for top in sorted(tops - {"..", "__pycache__"}):
            if os.path.exists(f"{root}/{top}") and not top.endswith(".pth"):
                yield f"{root}/{top}"
        if not tops:  # Debian's own packages keep no list of their files
            yield from _bare_module(wanted, folders)
        for requirement in found.requires or ():
            match = re.match(r"[\w.-]+", requirement)
            if match and "extra ==" not in requirement:
                waiting.append(match[0])


def _bare_module(name: str, folders: list[str]) -> Iterator[str]:
    """A module that no installed distribution claims: only itself."""
    spec = importlib.machinery.PathFinder.find_spec(name, folders)
    if spec is not None and spec.submodule_search_locations:
        yield from list(spec.submodule_search_locations)[:1]
    elif spec is not None and spec.origin:
        yield spec.origin
