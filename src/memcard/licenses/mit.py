"""MIT License. Source: https://opensource.org/license/mit."""

from __future__ import annotations

from memcard.core.license import License
from memcard.licenses._terms import notice, provided, yes

_USE = yes("Use without restriction is granted.", "paragraph 1")
_GIVE = provided("the copyright notice and the license text go along.", "paragraph 2")

PLUGIN = License(
    id="mit",
    title="MIT License",
    version="as listed by the OSI",
    source="https://opensource.org/license/mit",
    spdx="MIT",
    terms={
        "commercial": _USE,
        "share": _GIVE,
        "merge": _GIVE,
        "train": _USE,
        "host": _USE,
        "sell": _GIVE,
    },
    duties=(notice("paragraph 2"),),
    names=("mit license", "the mit license", "expat"),
    links=("opensource.org/licenses/mit", "opensource.org/license/mit"),
    bases=("HiDream", "HiDream-ai/HiDream-I1-Full", "HiDream-ai/HiDream-I1-Dev"),
)
