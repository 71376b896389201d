"""Find the k-th largest of very many values, exactly, without holding them.

The values are read in passes. The first looks at a window around the answer that a sample foretells:
what lies above is counted, what lies inside is kept. As a rule that is all. If the window missed, or
too much lies inside, a histogram of 16 more bits per pass narrows it down; four of them see all bits.
The sample decides how long it takes, never what comes out. All searches of a call share the room for
what they keep, so memory is bounded whatever the number of values.

Values are compared by their bits: keys are float64 magnitudes read as whole numbers, which have the
same order, NaN being the largest. Of equal values the one with the lower index ranks higher.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from memcard.maths.rounding import compiled

Keys: TypeAlias = NDArray[np.int64]


class Unmade(Protocol):
    """Keys that need not be made to be looked through."""

    def sift(self, low: int, high: int) -> tuple[NDArray[np.int64], Keys, int]:
        """Return the indices of the keys in ``low``..``high``, these keys, and how many lie above.

        The arrays are good until the next call.
        """
        ...

    def keys(self) -> Keys:
        """Return all of them, good until the next call."""
        ...


Column: TypeAlias = Keys | Unmade
# Yields (index of the first value, for each column the keys from there on), in order.
Scan: TypeAlias = Callable[[], Iterator[tuple[int, Sequence[Column]]]]

KEPT = 1 << 20  # candidates in memory, of all searches together: 16 bytes each
_DIGIT = 16
_KEEP, _TALLY, _EQUALS = range(3)  # what a search does with the values of a pass
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
    room = share_of_room(sum(0 < rank < count for _, rank in ranks))
    for column, rank in ranks:
        cuts.append(NOTHING if rank <= 0 else EVERYTHING)
        hint = sample[column] if sample else None
        seeks.append(_Seek(column, rank, count, room, hint) if 0 < rank < count else None)
    while any(seek and not seek.found for seek in seeks):
        open_ones = [seek for seek in seeks if seek and not seek.found]
        for start, columns in scan():
            for seek in open_ones:
                seek.take(start, columns[seek.column])
        for seek in open_ones:
            seek.turn()
    return [s.found or cut if s else cut for s, cut in zip(seeks, cuts, strict=True)]


def ascending(
    scan: Callable[[], Iterator[NDArray[np.float64]]],
    places: Sequence[int],
    count: int,
    sample: NDArray[np.float64],
) -> list[float]:
    """Return the values at these places of all values sorted upwards, NaN last; exact.

    Args:
        scan: one pass over all values; called a few times. Its arrays may be spent.
        places: 0 to ``count - 1``.
        count: how many values there are.
        sample: some of the values; only speed depends on them. May be spent.
    """
    found = _descending(scan, [count - place for place in places], count, sample, _above_zero)
    if all(value > 0 or value != value for value in found):  # NaN too
        return found
    below = _descending(scan, [place + 1 for place in places], count, sample, _below_zero)
    return [v if v != 0 else 0.0 - b for v, b in zip(found, below, strict=True)]


def _descending(
    scan: Callable[[], Iterator[NDArray[np.float64]]],
    ranks: Sequence[int],
    count: int,
    sample: NDArray[np.float64],
    part: Callable[[NDArray[np.float64]], Keys],
) -> list[float]:
    """Return the values of these ranks, the largest being 1, of one side of zero."""

    def keys() -> Iterator[tuple[int, Sequence[Keys]]]:
        start = 0
        for values in scan():
            yield start, [part(values)]
            start += len(values)

    # Asked for all, ``select`` would not look at any; one more that ranks last changes nothing else.
    cuts = select(keys, [(0, rank) for rank in ranks], count + 1, [part(sample)])
    return [float(value) for value in np.array([cut.key for cut in cuts]).view(np.float64)]


def _above_zero(values: NDArray[np.float64]) -> Keys:
    return keys_of(np.abs(np.maximum(values, 0.0)))


def _below_zero(values: NDArray[np.float64]) -> Keys:
    return keys_of(np.where(values < 0, -values, 0.0))


def share_of_room(searches: int) -> int:
    """Return how many candidates each of so many searches may keep."""
    return KEPT // max(1, searches)


def sample_size(count: int, searches: int) -> int:
    """Return how many of ``count`` values to look at beforehand, for each of so many searches.

    0 for so few values that all of them are kept; else so many that the window fits the room, if they
    fit it themselves. Beyond that, 60 million values for two searches, a histogram comes in.
    """
    if count <= SMALL:
        return 0
    room = share_of_room(searches)
    fits = (_DEVIATIONS * count / (0.8 * room)) ** 2  # a deviation is at most 1/2
    return min(count // 16, room, max(1 << 15, count // 256, int(fits)))


class _Seek:
    """The search for one cut. ``low`` and ``high`` always enclose its key."""

    def __init__(self, column: int, rank: int, count: int, room: int, sample: Keys | None) -> None:
        self.column, self._rank, self._room = column, rank, room
        self.found: Cut | None = None
        self._low, self._high = 0, TOP
        if sample is not None and len(sample) and count > SMALL:
            self._low, self._high = _window(sample, rank / count)
        self._stage = _KEEP
        self._begin()

    def take(self, start: int, column: Column) -> None:
        """Look at the next values."""
        if self._stage == _KEEP:
            self._keep(start, column)
        elif self._stage == _TALLY:
            self._tally(_made(column))
        else:
            self._equals(start, _made(column))

    def turn(self) -> None:
        """Draw the conclusions of a pass."""
        if self._stage == _KEEP:
            self._after_keeping()
        elif self._stage == _TALLY:
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

    def _keep(self, start: int, column: Column) -> None:
        places, keys, above = _sift(column, self._low, self._high)
        self._above += above
        self._inside += len(places)
        if self._inside > self._room:
            self._keys, self._places = [], []  # too much: only counted from here on
        else:
            self._keys.append(keys.copy())
            self._places.append(places + start)

    def _after_keeping(self) -> None:
        wanted = self._rank - self._above
        if wanted <= 0:
            self._low, self._high = self._high + 1, TOP
        elif wanted > self._inside:
            self._low, self._high = 0, self._low - 1
        elif self._inside <= self._room:
            keys, places = np.concatenate(self._keys), np.concatenate(self._places)
            self._begin()
            at = len(keys) - wanted
            key = int(np.partition(keys, at)[at])
            equal = places[keys == key]
            last = wanted - int(np.count_nonzero(keys > key)) - 1
            self.found = Cut(key, int(equal[last]))
            return
        self._next(wanted)

    def _tally(self, keys: Keys) -> None:
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
        if inside <= self._room:
            self._stage = _KEEP
            self._begin()
        else:
            self._next(wanted)

    def _next(self, wanted: int) -> None:
        """Go on with a histogram; or, if only equal values are left, by counting them."""
        self._begin()
        self._histogram = np.zeros(1 << _DIGIT, np.int64)
        self._stage = _TALLY
        if self._low == self._high:
            self._wanted = wanted
            self._stage = _EQUALS

    def _equals(self, start: int, keys: Keys) -> None:
        equal = keys == self._low
        count = int(np.count_nonzero(equal))
        if self._inside < self._wanted <= self._inside + count:
            place = int(np.flatnonzero(equal)[self._wanted - self._inside - 1])
            self.found = Cut(self._low, start + place)
        self._inside += count


def _made(column: Column) -> Keys:
    return column if isinstance(column, np.ndarray) else column.keys()


def _sift(column: Column, low: int, high: int) -> tuple[NDArray[np.int64], Keys, int]:
    """Return the indices of the keys in ``low``..``high``, these, and how many keys lie above."""
    if not isinstance(column, np.ndarray):
        return column.sift(low, high)
    if compiled(column.size) is not None:
        from memcard.maths import _delta_kernels as loops

        places, above = loops.sift(column, low, high)
        return places, column[places], above
    beyond = column > high
    places = np.flatnonzero((column >= low) & ~beyond)
    return places, column[places], int(np.count_nonzero(beyond))


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
