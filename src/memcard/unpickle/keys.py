"""Which values may be keys of a dict.

Python salts the hash of text and bytes, not that of numbers and tuples: an attacker can make any
number of those with one hash, and a dict of n such keys costs n * n steps. So they are counted. Long or
deeply nested tuples crash or stall other readers (torch 2.13 dies of a nested tuple as a key).
"""

from __future__ import annotations

from sys import hash_info

from memcard.core.limits import Limits
from memcard.unpickle.nodes import BadCallError, Global, Opaque, Parts, Storage, TensorView, Value

_SALTED = (str, bytes, bool, type(None))
_BY_IDENTITY = (Global, Opaque, Parts, Storage, TensorView)
_PARTS = 64
_DEPTH = 4


class Keys:
    """Checks the keys of all dicts of one program."""

    def __init__(self, limits: Limits) -> None:
        self._left = limits.dict_keys

    def check(self, key: Value) -> Value:
        """Return ``key``.

        Raises:
            BadCallError: it can be no key, or there are too many keys of one hash.
        """
        if isinstance(key, (*_SALTED, *_BY_IDENTITY, float)):
            return key
        if isinstance(key, int):
            if abs(key) < hash_info.modulus:  # its own hash, so no two are the same
                return key
        elif not (isinstance(key, tuple) and _parts(key, _DEPTH, _PARTS) >= 0):
            raise BadCallError("a dict key that is not a scalar or a short flat tuple")
        self._left -= 1
        if self._left < 0:
            raise BadCallError("more tuples or huge numbers as dict keys than any checkpoint has")
        return key


def _parts(key: tuple[Value, ...], depth: int, left: int) -> int:
    """Return what is left of the allowed parts; negative if it is not enough or a part is no key."""
    for part in key:
        left -= 1
        if left < 0:
            return -1
        if isinstance(part, tuple):
            left = _parts(part, depth - 1, left) if depth else -1
        elif not isinstance(part, (*_SALTED, *_BY_IDENTITY, int, float)):
            return -1
    return left
