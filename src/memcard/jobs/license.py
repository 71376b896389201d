"""What may be done with a checkpoint: its license, worked out from everything it was made of.

Not legal advice: answers are read off a table of facts about each license (``memcard/licenses``), and the
reasons name parent, section and source so that a person can check them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from memcard.core.license import USES, Parent
from memcard.core.progress import Listener, silent
from memcard.core.verdict import Verdict, combine
from memcard.errors import NotFoundError
from memcard.jobs._license_sources import Inquiry


@dataclass(frozen=True, slots=True)
class LicenseReport:
    """The license of one checkpoint.

    Attributes:
        ref: what the user named.
        verdict: the answers, the duties, the conflicts and all parents.
        notes: what was assumed or could not be read, one sentence each.
    """

    ref: str
    verdict: Verdict
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the same facts as JSON values."""
        verdict = self.verdict
        return {
            "ref": self.ref,
            "license": verdict.license,
            "answers": {
                use: {
                    "question": f"May I {USES[use]}?",
                    "answer": ruling.answer,
                    "reasons": [asdict(reason) for reason in ruling.reasons],
                }
                for use, ruling in verdict.rulings.items()
            },
            "duties": [
                {**asdict(owed.duty), "license": owed.license, "parents": list(owed.parents)}
                for owed in verdict.duties
            ],
            "conflicts": [
                {**asdict(conflict), "parents": list(conflict.parents)}
                for conflict in verdict.conflicts
            ],
            "parents": [_parent(parent) for parent in verdict.parents],
            "notes": list(self.notes),
            "legal_advice": False,
        }


def license_of(
    ref: str | Path,
    *,
    given: Mapping[str, str] | None = None,
    progress: Listener = silent,
) -> LicenseReport:
    """Work out the license of a checkpoint from what it says and from all it was made of.

    Reads headers and the small files beside them. Parents of a merge are looked for beside it, and hashed to
    be sure that they are the ones; what is not found counts as said when the merge was made, else as unknown.

    Args:
        ref: a path, or a name of the starter.
        given: name of a file or parent to a license that its user knows it has; replaces what is read.
        progress: hears about the hashing.

    Raises:
        FormatError: the file cannot be read as a checkpoint.
        NotFoundError: no such file; no such license; a name in ``given`` that nothing has.
    """
    inquiry = Inquiry(given or {}, progress)
    parents = inquiry.ask(ref)
    _all_met(inquiry, parents)
    return LicenseReport(str(ref), combine(parents), tuple(dict.fromkeys(inquiry.notes)))


def license_of_merge(
    refs: Sequence[str | Path],
    *,
    given: Mapping[str, str] | None = None,
    progress: Listener = silent,
) -> LicenseReport:
    """Work out the license that a merge or a bake of these checkpoints would have.

    As ``license_of`` otherwise.
    """
    inquiry = Inquiry(given or {}, progress)
    asked = [parent for ref in refs for parent in inquiry.ask(ref)]
    _all_met(inquiry, asked)
    parents = [replace(p, role="model") if p.role == "itself" else p for p in asked]
    name = " + ".join(str(ref) for ref in refs)
    return LicenseReport(name, combine(parents), tuple(dict.fromkeys(inquiry.notes)))


def _all_met(inquiry: Inquiry, parents: Sequence[Parent]) -> None:
    if unused := inquiry.unused():
        known = ", ".join(dict.fromkeys(parent.name for parent in parents))
        raise NotFoundError(
            f"--license {unused[0]}=…: nothing of that name has a say here. There are: {known}."
        )


def _parent(parent: Parent) -> dict[str, Any]:
    license_ = parent.license
    return {
        "name": parent.name,
        "role": parent.role,
        "license": license_.id,
        "title": license_.title,
        "version": license_.version,
        "source": license_.source,
        "origin": parent.origin,
    }
