"""What a careful user should know about a torch file, one sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from memcard.unpickle.aliases import aliases
from memcard.unpickle.findings import Findings
from memcard.unpickle.nodes import shown
from memcard.unpickle.torch_rebuild import TorchRules
from memcard.unpickle.tree import Contents

_MOST = 12  # names in one note
_GROUPS = 8  # notes on tied weights


def torch_notes(contents: Contents, rules: TorchRules, findings: Findings) -> Iterator[str]:
    """Yield the notes, the most important first."""
    if findings.asked:
        yield findings.salvage_note()
    yield from contents.notes
    if not contents.tensors:
        yield "There is no tensor in it."
    if contents.training:
        yield (
            f"{len(contents.training)} tensors are training state (such as "
            f"{shown(contents.training[0])!r}), not part of the model."
        )
    if contents.other:
        yield f"Other content without tensors: {few(contents.other)}."
    if rules.inert:
        yield f"Harmless names kept as data: {few(sorted(rules.inert))}."
    if rules.raw:
        yield (
            f"The dtypes {few(sorted(rules.raw))} have no name outside of torch; their bytes are listed "
            "as integers of the same width."
        )
    if rules.left_out:
        kinds = few(sorted(set(rules.left_out)))
        yield f"{len(rules.left_out)} tensors that memcard cannot read are left out: {kinds}."
    groups = aliases(contents.tensors)
    for group in groups[:_GROUPS]:
        yield f"Share one storage (tied weights): {few(group)}."
    if len(groups) > _GROUPS:
        yield f"{len(groups) - _GROUPS} more groups of tensors share a storage."


def few(names: Sequence[str], most: int = _MOST) -> str:
    """Return the first names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(shown, names[:most])) + more
