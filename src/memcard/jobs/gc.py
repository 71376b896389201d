"""Put away what no name leads to, and remove what has been in the trash for long."""

from __future__ import annotations

from memcard.errors import UsageError
from memcard.store import gc as store_gc
from memcard.store import reserve
from memcard.store.layout import Layout, check
from memcard.store.writer import Writer

DAY = 86400.0


def gc(
    home: Layout, *, days: float = store_gc.GRACE / DAY, dry_run: bool = False
) -> store_gc.Collected:
    """Tidy the library up. Files that are not the library's are never touched.

    Args:
        home: the library.
        days: for which an entry of the trash is kept; 0 empties the trash now.
        dry_run: only say what would be done.

    Raises:
        IntegrityError: a name or manifest cannot be read, so what it needs is not known.
    """
    if not days >= 0:
        raise UsageError(f"days is {days}; it must be 0 or more.")
    check(home)
    young = min(store_gc.YOUNG, days * DAY)

    def collect() -> store_gc.Collected:
        with Writer(home) as writer:
            done = store_gc.collect(writer, grace=days * DAY, young=young, dry_run=dry_run)
            if not dry_run:
                reserve.keep(writer)
            return done

    return reserve.with_space(home, collect)
