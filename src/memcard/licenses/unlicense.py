"""The Unlicense, public domain. Source: https://unlicense.org/."""

from __future__ import annotations

from memcard.core.license import USES, License
from memcard.licenses._terms import yes

PLUGIN = License(
    id="unlicense",
    title="The Unlicense",
    version="2010",
    source="https://unlicense.org/",
    spdx="Unlicense",
    terms=dict.fromkeys(USES, yes("Everything is allowed, for any purpose.", "paragraph 2")),
    names=("the unlicense",),
    links=("unlicense.org",),
)
