"""Nothing is known: no license is stated, or one that memcard does not know. Source: docs/license.md."""

from __future__ import annotations

from memcard.core.license import USES, License
from memcard.licenses._terms import unclear

PLUGIN = License(
    id="unknown",
    title="Unknown",
    version="none",
    source="docs/license.md",
    terms=dict.fromkeys(USES, unclear("Its license is not known.", "")),
    derivatives="unknown",
    names=("other", "none", "n a", "na", "see description", "custom", "unspecified", "no license"),
)
