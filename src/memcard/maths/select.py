"""Find the k-th largest of very many values, exactly, without holding them.

The values are read in passes. The first looks at a window around the answer that a sample foretells:
what lies above is counted, what lies inside is kept. As a rule that is all. If the window missed, or
too much lies inside, a histogram of 16 more bits per pass narrows it down; four of them see all bits.
The sample decides how long it takes, never what comes out.

Values are compared by their bits: keys are float64 magnitudes read as whole numbers, which have the
same order, NaN being the largest. Of equal values the one with the lower index ranks higher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from memcard.maths.rounding import compiled

Keys: TypeAlias = NDArray[np.int64]
# Yields (index of the first value, for each column the keys from there on), in order.
Scan: TypeAlias = Callable[[], Iterator[tuple[int, Sequence[Keys]]]]

KEPT = 1 << 20  # candidates in memory: 16 bytes each
_DIGIT = 16
TOP = (1 << 63) - 1
SMALL = 1 << 16  # so few are kept at once, without a sample
_DEVIATIONS = 5  # of a sample's rank, on each side; weights of one row are alike, so more than two


class Cut(NamedTuple):
    """The place in the ranking after which values are dropped.

    Attributes:
        key: what is larger is before the cut, what is smaller behind it.
        last: of the equal ones, those up to this index are before it.
    """

    key: int
    last: int


NOTHING = Cut(TOP, -1)  # drops all
EVERYTHING = Cut(0, TOP)  # drops nothing


def before(keys: Keys, start: int, cut: Cut) -> NDArray[np.bool_]:
    """Tell which values rank before the cut; ``start`` is the index of the first."""
    border = cut.last + 1 - start
    if border >= len(keys):
        return keys >= cut.key
    if border <= 0:
        return keys > cut.key
    found = keys > cut.key
    found[:border] = keys[:border] >= cut.key
    return found


def keys_of(magnitudes: NDArray[np.float64]) -> Keys:
    """View float64 values without a sign as keys."""
    return magnitudes.view(np.int64)


def select(
    scan: Scan, ranks: Sequence[tuple[int, int]], count: int, sample: Sequence[Keys] = ()
) -> list[Cut]:
    """Return for each rank the cut that keeps as many values.

    Args:
        scan: one pass over all values; called until everything is found.
        ranks: (column, how many to keep). None or all of them need no pass.
        count: how many values a column has.
        sample: some values of each column; only speed depends on them.
    """
    seeks: list[_Seek | None] = []
    cuts: list[Cut] = []
    for column, rank in ranks:
        cuts.append(NOTHING if rank <= 0 else EVERYTHING)
        hint = sample[column] if sample else None
        seeks.append(_Seek(column, rank, count, hint) if 0 < rank < count else None)
    while any(seek and not seek.found for seek in seeks):
        open_ones = [seek for seek in seeks if seek and not seek.found]
        for start, columns in scan():
            for seek in open_ones:
                seek.take(start, columns[seek.column])
        for seek in open_ones:
            seek.turn()
    return [s.found or cut if s else cut for s, cut in zip(seeks, cuts, strict=True)]


class _Seek:
    """The search for one cut. ``low`` and ``high`` always enclose its key."""

    def __init__(self, column: int, rank: int, count: int, sample: Keys | None) -> None:
        self.column, self._rank = column, rank
        self.found: Cut | None = None
        self._low, self._high = 0, TOP
        if sample is not None and len(sample) and count > SMALL:
            self._low, self._high = _window(sample, rank / count)
        self._look: Callable[[int, Keys], None] = self._keep
        self._begin()

    def take(self, start: int, keys: Keys) -> None:
        """Look at the next values."""
        self._look(start, keys)

    def turn(self) -> None:
        """Draw the conclusions of a pass."""
        if self._look == self._keep:
            self._after_keeping()
        elif self._look == self._tally:
            self._after_tally()

    def _begin(self) -> None:
        self._above = self._inside = 0
        self._keys: list[Keys] = []
        self._places: list[NDArray[np.int64]] = []
        self._histogram = np.zeros(0, np.int64)

    def _within(self, keys: Keys) -> NDArray[np.bool_]:
        """Tell which values lie between ``low`` and ``high``; count those above."""
        inside = keys >= self._low
        if self._high < TOP:
            beyond = keys > self._high
            self._above += int(np.count_nonzero(beyond))
            inside ^= beyond  # what is above the one bound is above the other
        return inside

    def _keep(self, start: int, keys: Keys) -> None:
        places, above = _sift(keys, self._low, self._high)
        self._above += above
        self._inside += len(places)
        if self._inside <= KEPT:
            self._keys.append(keys[places])
            self._places.append(places + start)

    def _after_keeping(self) -> None:
        wanted = self._rank - self._above
        if wanted <= 0:
            self._low, self._high = self._high + 1, TOP
        elif wanted > self._inside:
            self._low, self._high = 0, self._low - 1
        elif self._inside <= KEPT:
            keys, places = np.concatenate(self._keys), np.concatenate(self._places)
            at = len(keys) - wanted
            key = int(np.partition(keys, at)[at])
            equal = places[keys == key]
            last = wanted - int(np.count_nonzero(keys > key)) - 1
            self.found = Cut(key, int(equal[last]))
            return
        self._next(wanted)

    def _tally(self, start: int, keys: Keys) -> None:
        shift = _shift(self._low, self._high)
        inside = keys[self._within(keys)]
        found = np.bincount((inside - self._low) >> shift, minlength=len(self._histogram))
        self._histogram = self._histogram + found if len(self._histogram) else found

    def _after_tally(self) -> None:
        shift = _shift(self._low, self._high)
        from_top = self._above + np.cumsum(self._histogram[::-1])
        place = int(np.searchsorted(from_top, self._rank))
        digit = len(self._histogram) - 1 - place
        inside = int(self._histogram[digit])
        self._low += digit << shift
        self._high = min(self._high, self._low + (1 << shift) - 1)
        wanted = self._rank - int(from_top[place]) + inside
        if inside <= KEPT:
            self._look = self._keep
            self._begin()
        else:
            self._next(wanted)

    def _next(self, wanted: int) -> None:
        """Go on with a histogram; or, if only equal values are left, by counting them."""
        self._begin()
        self._histogram = np.zeros(1 << _DIGIT, np.int64)
        self._look = self._tally
        if self._low == self._high:
            self._wanted = wanted
            self._look = self._equals

    def _equals(self, start: int, keys: Keys) -> None:
        equal = keys == self._low
        count = int(np.count_nonzero(equal))
        if self._inside < self._wanted <= self._inside + count:
            place = int(np.flatnonzero(equal)[self._wanted - self._inside - 1])
            self.found = Cut(self._low, start + place)
        self._inside += count


def _sift(keys: Keys, low: int, high: int) -> tuple[NDArray[np.int64], int]:
    """Return the indices of the keys in ``low``..``high``, and how many keys lie above."""
    if compiled(keys.size) is not None:
        from memcard.maths import _delta_kernels as loops

        return loops.sift(keys, low, high)
    beyond = keys > high
    return np.flatnonzero((keys >= low) & ~beyond), int(np.count_nonzero(beyond))


def _shift(low: int, high: int) -> int:
    """Return how many bits a bucket of the histogram spans."""
    return max(0, (high - low).bit_length() - _DIGIT)


def _window(sample: Keys, share: float) -> tuple[int, int]:
    """Return bounds between which the value of that rank should lie."""
    ordered = np.sort(sample)[::-1]
    size = len(ordered)
    margin = _DEVIATIONS * (share * (1 - share) / size) ** 0.5 + 2 / size
    first, last = int((share - margin) * size), int((share + margin) * size) + 1
    high = int(ordered[first]) if share > margin else TOP
    return (int(ordered[last]) if last < size else 0), high
