"""GNU General Public License 3. Source: https://www.gnu.org/licenses/gpl-3.0.html.

Section 13 lets it be combined with AGPL 3.
"""

from __future__ import annotations

from memcard.core.license import Duty, License
from memcard.licenses._terms import changes, notice, provided, yes

_RUN = yes("Running it is not restricted; output is covered only if it contains the work.", "2")

PLUGIN = License(
    id="gpl-3.0",
    title="GNU General Public License 3",
    version="3",
    source="https://www.gnu.org/licenses/gpl-3.0.html",
    spdx="GPL-3.0-only",
    terms={
        "commercial": _RUN,
        "share": provided("the license goes along, and the source is to be had.", "4, 6"),
        "merge": provided("the whole is under this license, with its source.", "5(c), 6"),
        "train": _RUN,
        "host": yes("Letting others use it over a network is not giving it to them.", "0 (convey)"),
        "sell": provided("the license goes along and the source is to be had; any price.", "4, 6"),
    },
    duties=(
        notice("4"),
        changes("5(a)"),
        Duty("share-alike", "Put what you make of it under the same license.", "5(c)"),
        Duty("source code", "Give the source along: what one would change it with.", "6"),
    ),
    derivatives="same",
    compatible=("agpl-3.0",),
    names=("gpl3", "gpl v3", "gplv3", "gpl 3.0 only", "gpl 3.0 or later", "gnu gpl v3"),
    vague=("gpl",),
    links=("www.gnu.org/licenses/gpl-3.0", "www.gnu.org/licenses/gpl-3.0.html"),
)
