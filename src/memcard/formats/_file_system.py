"""Whether a file lies on a disk of this machine, or on one behind a network.

A mapped file on a network disk is read page by page, many times slower than in large pieces
(ComfyUI #2288, diffusers #12680), and a lost connection kills the process instead of raising an error.

Source: proc(5), ``/proc/pid/mountinfo``.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

# Everything else, also what nobody here has heard of, is read with pread.
LOCAL = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "reiserfs"}
    | {"tmpfs", "ramfs", "overlay", "squashfs", "erofs", "iso9660", "vfat", "exfat", "ntfs3"}
)
_MOUNTS = Path("/proc/self/mountinfo")
_ROOT_AT, _POINT_AT = 2, 4  # fields of a line: major:minor, and the folder it is mounted on


def is_local(path: Path) -> bool:
    """Whether the kernel reads ``path`` from its own disk or memory; False if nothing tells."""
    return file_system_of(path) in LOCAL


def file_system_of(path: Path) -> str:
    """Return the type of the file system that ``path`` lies on, as the kernel calls it; "" if unknown."""
    try:
        real = path.resolve()
        return _type(str(real.parent), real.parent.stat().st_dev)
    except OSError:
        return ""


@lru_cache(maxsize=256)  # a folder of a thousand files asks once
def _type(folder: str, device: int) -> str:
    """Return the type of the file system a folder lies on; "" if unknown."""
    lines = _MOUNTS.read_text(
        "utf-8", "surrogateescape"
    ).splitlines()  # OSError where there is none
    number = f"{os.major(device)}:{os.minor(device)}"
    best, found = -1, ""
    for line in lines:
        left, _, right = line.partition(" - ")
        fields = left.split(" ")
        point, kind = _unescaped(fields[_POINT_AT]), right.split(" ")[0]
        if fields[_ROOT_AT] == number:
            return kind  # the device decides; btrfs and some overlays have another number here
        # the last mount on a folder hides the ones before
        if _lies_in(folder, point) and len(point) >= best:
            best, found = len(point), kind
    return found


def _lies_in(folder: str, point: str) -> bool:
    return folder == point or folder.startswith(point.rstrip("/") + "/")


def _unescaped(text: str) -> str:
    for char in " \t\n\\":
        text = text.replace(f"\\{ord(char):03o}", char)
    return text
