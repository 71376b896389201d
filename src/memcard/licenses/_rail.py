"""What the OpenRAIL-M licenses have in common: free use, and a list of forbidden uses that goes along.

They are one text with different lists (Attachment A) and dates. Paragraph numbers count through the
sections: 4 is distribution, 5 use restrictions, 6 output.

Source: https://huggingface.co/spaces/CompVis/stable-diffusion-license,
https://github.com/Stability-AI/generative-models (model_licenses/LICENSE-SDXL1.0),
https://huggingface.co/spaces/bigscience/license.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from memcard.core.license import Duty, Term, Use
from memcard.licenses._terms import changes, notice, provided, restricted

_GIVE = "you pass the license and its forbidden uses on as binding terms."

TERMS: Final[Mapping[Use, Term]] = {
    "commercial": provided("the pictures and their use are not among the forbidden uses.", "III.5, III.6"),
    "share": provided(_GIVE, "III.4(a)-(d)"),
    "merge": provided(f"{_GIVE} Your own terms may be added.", "III.4"),
    "train": provided(
        "you treat the other model as a derivative when it is to perform like this one.",
        "I (Derivatives of the Model)",
    ),
    "host": provided("your users are bound to the forbidden uses too.", "III.4, III.5"),
    "sell": provided(_GIVE, "III.4"),
}  # fmt: skip

DUTIES: Final[tuple[Duty, ...]] = (
    notice("III.4(b), III.4(d)"),
    changes("III.4(c)"),
    restricted("III.5, Attachment A", "Keep to the forbidden uses, and bind whoever gets it to them."),
)  # fmt: skip

# The Fair AI licenses were written for derivatives of Stable Diffusion: their lists of forbidden uses
# stand in for this one (preamble of https://freedevproject.org/faipl-1.0-sd/).
FITS: Final = ("fair-ai-public-1.0-sd", "noobai", "pony-v6")
