"""The whole state of a training: its objects, its random numbers, its position in the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memcard.training import _sections
from memcard.training._feed import Feed
from memcard.training._sections import Object, ParameterNames, Saved
from memcard.training._tree import JSON, Packed, from_bytes, pack_all
from memcard.training._windows import Windows
from memcard.training.randomness import RandomState
from memcard.training.saves import OpenSave


@dataclass(frozen=True, slots=True)
class Rest:
    """What is to be put back later than the objects.

    Attributes:
        random: of this process; None if the save had fewer.
        feed: position of the loop; None if there was none.
    """

    random: RandomState | None
    feed: Any


class State:
    """The objects of a training, on their way into a save and out of one.

    Args:
        given: section to an object, or a dict or list of objects, or None.
    """

    def __init__(self, given: Mapping[str, Any]) -> None:
        self._objects = _sections.objects(given)

    def packed(
        self, feed: Feed | None, random: Sequence[RandomState] = (), feeds: Sequence[bytes] = ()
    ) -> Packed:
        """Take everything apart.

        Args:
            feed: what the loop takes its batches from.
            random: of all processes.
            feeds: positions of all processes.

        Raises:
            UnsupportedError: something is no plain value.
        """
        names = ParameterNames(self._objects)
        kept = [one for one in self._objects if feed is None or not _is_in(one, feed)]
        values: list[tuple[str, Any]] = []
        for one in kept:
            state, groups = _sections.state_of(one, names)
            values += [(one.path, state), (f"{one.path}.groups", groups)]
        values += [(f"random.{i}", list(s.to_json_and_tensors())) for i, s in enumerate(random)]
        values += [(f"feed.{i}", from_bytes(raw)) for i, raw in enumerate(feeds)]
        packed = pack_all(values)  # all at once, so that no two tensors get one name
        trees: Sequence[JSON] = packed.tree
        both, late = trees[: 2 * len(kept)], trees[2 * len(kept) :]
        rows = zip(kept, both[::2], both[1::2], strict=True)
        tree = {
            "objects": {one.path: {"state": s, "groups": g} for one, s, g in rows},
            "random": late[: len(random)],
            "feed": late[len(random) :],
        }
        return Packed(tree, packed.tensors)

    def refuse_other(self, opened: OpenSave) -> None:
        """Do nothing, unless a save is of other objects; nothing is read but its header.

        Raises:
            MismatchError: names what differs.
        """
        names = ParameterNames(self._objects)
        found = _sections.mismatches(self._of(opened), _saved(opened), opened.file.specs, names)
        _sections.refuse(found, opened.save.path)

    def load(self, opened: OpenSave, rank: int) -> Rest:
        """Put the objects back; everything is decoded before the first value changes."""
        windows = Windows(opened.file)
        names = ParameterNames(self._objects)
        calls = _sections.loaders(self._of(opened), _saved(opened), windows, names)
        drawn, fed = opened.tree["random"], opened.tree["feed"]
        random = None
        if rank < len(drawn):
            plain, tensors = _sections.own(drawn[rank], windows)
            random = RandomState.from_json_and_tensors(plain, tensors)
        # processes that were not there before go on at the position of the first, which is a global one
        feed = _sections.own(fed[rank if rank < len(fed) else 0], windows) if fed else None
        for call in calls:
            call()
        return Rest(random, feed)

    def _of(self, opened: OpenSave) -> list[Object]:
        """Return the objects that a save is to have: not those whose position the loop kept."""
        kept, by_loop = opened.tree["objects"], bool(opened.tree["feed"])
        return [o for o in self._objects if not (by_loop and o.is_data and o.path not in kept)]


def _is_in(one: Object, feed: Feed) -> bool:
    """Whether the feed knows the position of ``one``: of a loader it iterates a copy."""
    return one.is_data and not one.is_sampler and feed.covers(one.thing)


def _saved(opened: OpenSave) -> dict[str, Saved]:
    found: Mapping[str, Mapping[str, JSON]] = opened.tree["objects"]
    return {path: Saved(trees["state"], trees["groups"]) for path, trees in found.items()}
