"""A root file system of bind mounts, read-only, with nothing in it that was not asked for."""

# Paths here are plain strings: most go straight into system calls.
# ruff: noqa: PTH103, PTH112, PTH120, PTH123, PTH208, PTH211

from __future__ import annotations

import ctypes
import errno
import os
from contextlib import suppress

from . import kernel
from .layout import Layout

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 32, 4096, 16384, 1 << 18
_ATTRIBUTES = MS_RDONLY | MS_NOSUID  # the MOUNT_ATTR_ bits of mount_setattr are the same
_SYS_MOUNT_SETATTR, _AT_RECURSIVE = 442, 0x8000
# Folders to build on: mounting over one hides it, in our own view only.
_PLACES = ("/mnt", "/media", "/srv", "/opt", "/home", "/tmp", "/run")


def build(layout: Layout) -> str:
    """Assemble the root in this mount namespace; the folder where it stands.

    Raises OSError where the kernel refuses to mount.
    """
    kernel.mount("none", "/", "", MS_REC | MS_PRIVATE)
    base = _free_place(layout)
    kernel.mount("tmpfs", base, "tmpfs", MS_NOSUID | MS_NODEV, "mode=755,size=1m")
    for inside, outside in layout.binds.items():
        _bind(outside, base + inside)
    for inside in layout.masks:
        kernel.mount("tmpfs", base + inside, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV, "size=4k")
    for inside, target in layout.links.items():
        if not os.path.lexists(base + inside):
            os.symlink(target, base + inside)
    for name in ("/tmp", "/proc", "/site", "/old", *layout.folders):
        os.makedirs(base + name, exist_ok=True)
    return base


def _free_place(layout: Layout) -> str:
    sources = [os.path.realpath(source) + "/" for source in layout.binds.values()]
    for place in _PLACES:
        real = os.path.realpath(place)
        if os.path.isdir(real) and not any(s.startswith(real + "/") for s in sources):
            return real
    raise FileNotFoundError(f"no folder to build a root on; tried {', '.join(_PLACES)}")


def _bind(outside: str, target: str) -> None:
    if os.path.isdir(outside):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "a"):
            pass
    kernel.mount(outside, target, "", MS_BIND | MS_REC)
    device = target.rpartition("/")[0].endswith("/dev")
    _restrict(target, _ATTRIBUTES | (MS_NOEXEC if device else MS_NODEV))


class _MountAttr(ctypes.Structure):
    _fields_ = [(f, ctypes.c_uint64) for f in ("set", "clear", "propagation", "userns")]


def _restrict(target: str, flags: int) -> None:
    """Add flags to a bind mount, with everything below it where the kernel can (5.12)."""
    attributes = _MountAttr(set=flags)
    code = kernel.syscall(
        _SYS_MOUNT_SETATTR, -100, target.encode(), _AT_RECURSIVE,
        ctypes.byref(attributes), ctypes.sizeof(attributes),
    )  # fmt: skip
    if code < 0:
        kept = os.statvfs(target).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC | 1024 | 2048)
        kernel.mount("none", target, "", MS_REMOUNT | MS_BIND | flags | kept)


def enter(base: str) -> None:
    """Make `base` the root of this mount namespace and let go of the old one."""
    # A copy of the tree in this namespace: one inherited from a more privileged namespace
    # is locked and cannot become the root.
    kernel.mount(base, base, "", MS_BIND | MS_REC)
    os.chdir(base)
    mount_proc("proc")
    kernel.pivot_root(".", "old")
    os.chdir("/")
    kernel.umount("/old")
    kernel.mount("none", "/", "", MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def mount_proc(target: str = "/proc") -> bool:
    """Mount a proc file system for the server's own eyes, once; whether it is there.

    The kernel grants it only while the old root's proc is in view. See `part_with_proc`.
    """
    if not os.path.isdir(f"{target}/self"):
        with suppress(OSError):
            kernel.mount("proc", target, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    return os.path.isdir(f"{target}/self")


def part_with_proc() -> None:
    """No proc for this process and those it will fork, once the server has a view of its own.

    Raises OSError where it stays in view.
    """
    if os.path.isdir("/proc/self"):
        kernel.umount("/proc")
    if os.listdir("/proc"):
        raise OSError("the process file system is still in view")


def fresh_work_folder(path: str, size: int, inodes: int) -> None:
    """In a session's own mount namespace: an empty tmpfs of limited size."""
    flags, options = MS_NOSUID | MS_NODEV | MS_NOEXEC, f"size={size},mode=700"
    try:
        kernel.mount("tmpfs", path, "tmpfs", flags, f"{options},nr_inodes={inodes}")
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        kernel.mount("tmpfs", path, "tmpfs", flags, options)  # gVisor does not count inodes
