"""Sizes as people write them."""

from __future__ import annotations

import re

from memcard.errors import UsageError


def byte_size(value: int | str) -> int:
    """Return a number of bytes: ``5GB``, ``500MB``, ``2GiB`` or a plain number. GB is 10^9, GiB 2^30.

    Raises:
        UsageError: it is no size, or not positive.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([kmgt])(i?)b?|b)?", str(value).strip().lower())
    size = 0
    if match:
        power = " kmgt".index(match[2]) if match[2] else 0
        size = round(float(match[1]) * float(1024 if match[3] else 1000) ** power)
    if size < 1:
        raise UsageError(f"{value!r} is not a size; write it like 5GB.")
    return size
