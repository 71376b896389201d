"""The Fair AI Public License 1.0-SD and licenses that were made of it with further terms.

Source: https://freedevproject.org/faipl-1.0-sd/; the summary in the model card of Animagine XL 3.0,
https://huggingface.co/cagliostrolab/animagine-xl-3.0. Sections have names, not numbers. A derivative may
also have "another license with similar rules"; which those are is not settled, so none is named here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from memcard.core.license import Duty, Term, Use
from memcard.licenses._terms import notice, provided, restricted

_GIVE = "the license goes along, and the source with the model is to be had."

TERMS: Final[Mapping[Use, Term]] = {
    "commercial": provided("the pictures are not among the prohibited uses.", "Copyright, Prohibited Uses"),
    "share": provided(_GIVE, "Notices"),
    "merge": provided("the result is under this license, and whoever gets or uses it can have it.", "Notices"),
    "train": provided("it is not among the prohibited uses.", "Copyright, Prohibited Uses"),
    "host": provided("users can get the model you changed.", "Notices"),
    "sell": provided(_GIVE, "Copyright, Notices"),
}  # fmt: skip
DUTIES: Final[tuple[Duty, ...]] = (
    notice("Notices"),
    Duty("share-alike", "Put derived models under the same license.", "Notices"),
    Duty("source code", "Offer the changed model to whoever gets it or uses it over a network.", "Notices"),
    restricted("Prohibited Uses"),
)  # fmt: skip
