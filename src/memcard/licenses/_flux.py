"""What the non-commercial licenses of Black Forest Labs have in common.

Source: https://github.com/black-forest-labs/flux (model_licenses) and the LICENSE.md of FLUX.2 [dev].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from memcard.core.license import Duty, Term, Use
from memcard.licenses._terms import changes, no, non_commercial, notice, provided, restricted

_MONEY = no(
    "The model may be used for non-commercial purposes only.", "1 (Non-Commercial Purpose), 2(b)"
)
_GIVE = "it is non-commercial, and the license and its notice go along."

SELLS_PICTURES: Final = provided(
    "the model itself was run for a non-commercial purpose (2(b)); the pictures may then be sold.",
    "2(b), 2(d)",
)
TERMS: Final[Mapping[Use, Term]] = {
    "share": provided(_GIVE, "2(a), 3(a), 3(b)"),
    "merge": provided(f"{_GIVE} The notice says what was changed.", "3(a)-(e)"),
    "train": provided(
        "the other model does not compete with this one and is not for commercial use.", "1 (Non-Commercial Purpose), 2(d)"
    ),
    "host": _MONEY,
    "sell": _MONEY,
}  # fmt: skip
DUTIES: Final[tuple[Duty, ...]] = (
    notice("3(a), 3(b)"),
    changes("3(c)"),
    non_commercial("2(b)", "Use, share and change it for non-commercial purposes only."),
    restricted("4"),
)
FILTERS: Final = Duty("safeguards", "Filter or review pictures for unlawful content.", "2(e)")
