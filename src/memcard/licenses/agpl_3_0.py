"""GNU Affero General Public License 3. Source: https://www.gnu.org/licenses/agpl-3.0.html."""

from __future__ import annotations

from memcard.core.license import Duty, License
from memcard.licenses._terms import changes, notice, provided, yes

_RUN = yes("Running it is not restricted; output is covered only if it contains the work.", "2")

PLUGIN = License(
    id="agpl-3.0",
    title="GNU Affero General Public License 3",
    version="3",
    source="https://www.gnu.org/licenses/agpl-3.0.html",
    spdx="AGPL-3.0-only",
    terms={
        "commercial": _RUN,
        "share": provided("the license goes along, and the source is to be had.", "4, 6"),
        "merge": provided("the whole is under this license, with its source.", "5(c), 6"),
        "train": _RUN,
        "host": provided("users of a changed version can get its source.", "13"),
        "sell": provided("the license goes along and the source is to be had; any price.", "4, 6"),
    },
    duties=(
        notice("4"),
        changes("5(a)"),
        Duty("share-alike", "Put what you make of it under the same license.", "5(c)"),
        Duty("source code", "Give the source along, also to users over a network.", "6, 13"),
    ),
    derivatives="same",
    network=True,
    names=("agpl3", "agpl v3", "agplv3", "agpl 3.0 only", "agpl 3.0 or later", "gnu agpl v3"),
    vague=("agpl",),
    links=("www.gnu.org/licenses/agpl-3.0", "www.gnu.org/licenses/agpl-3.0.html"),
)
