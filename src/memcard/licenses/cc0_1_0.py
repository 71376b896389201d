"""CC0 1.0, public domain. Source: https://creativecommons.org/publicdomain/zero/1.0/legalcode.en."""

from __future__ import annotations

from memcard.core.license import USES, License
from memcard.licenses._terms import yes

PLUGIN = License(
    id="cc0-1.0",
    title="Creative Commons Zero 1.0 Universal",
    version="1.0",
    source="https://creativecommons.org/publicdomain/zero/1.0/legalcode.en",
    spdx="CC0-1.0",
    terms=dict.fromkeys(USES, yes("All rights are waived; where the law forbids that, licensed.", "2, 3")),
    names=("cc0", "cc zero", "creative commons zero 1.0 universal"),
    links=("creativecommons.org/publicdomain/zero/1.0",),
)  # fmt: skip
