"""Which tensors share memory: tied weights, or one tensor under two names."""

from __future__ import annotations

from collections.abc import Mapping

from memcard.unpickle.nodes import TensorView


def aliases(views: Mapping[str, TensorView]) -> list[list[str]]:
    """Return groups of tensors whose bytes overlap, in file order."""
    storages: dict[str, list[str]] = {}
    for name, view in views.items():
        if view.nbytes:
            storages.setdefault(view.storage.key, []).append(name)
    groups = []
    for names in storages.values():
        reach, group = -1, list[str]()
        for name in sorted(names, key=lambda n: views[n].offset):
            view = views[name]
            if view.offset >= reach:
                groups.append(group)
                group = []
            group.append(name)
            span = sum((n - 1) * s for n, s in zip(view.shape, view.stride, strict=True)) + 1
            reach = max(reach, view.offset + span * view.itemsize)
        groups.append(group)
    return [group for group in groups if len(group) > 1]
