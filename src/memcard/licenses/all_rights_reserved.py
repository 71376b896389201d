"""All rights reserved: the author says that nothing is licensed.

Source: https://www.wipo.int/treaties/en/ip/berne/ (Berne Convention, articles 9 and 12: copies and adaptations
are for the author to allow). A file that merely says nothing is ``unknown``.
"""

from __future__ import annotations

from memcard.core.license import License
from memcard.licenses._terms import no, unclear

_COPY = no("Copies need the permission of the author.", "Berne Convention, 9")
_CHANGE = no("Adaptations need the permission of the author.", "Berne Convention, 12")
_SILENT = unclear("Nothing is granted; what pictures need is not settled.", "")

PLUGIN = License(
    id="all-rights-reserved",
    title="All rights reserved",
    version="Berne Convention, 1979",
    source="https://www.wipo.int/treaties/en/ip/berne/",
    terms={
        "commercial": _SILENT,
        "share": _COPY,
        "merge": _CHANGE,
        "train": _SILENT,
        "host": _COPY,
        "sell": _COPY,
    },
    derivatives="carry",
    names=("proprietary", "copyright all rights reserved"),
)
