"""BSD 3-Clause License. Source: https://opensource.org/license/bsd-3-clause."""

from __future__ import annotations

from memcard.core.license import Duty, License
from memcard.licenses._terms import notice, provided, yes

_USE = yes("Use is permitted, and nothing is said of what is made with it.", "preamble")
_GIVE = provided("the copyright notice, the conditions and the disclaimer go along.", "1, 2")

PLUGIN = License(
    id="bsd-3-clause",
    title="BSD 3-Clause License",
    version="as listed by the OSI",
    source="https://opensource.org/license/bsd-3-clause",
    spdx="BSD-3-Clause",
    terms={
        "commercial": _USE,
        "share": _GIVE,
        "merge": _GIVE,
        "train": _USE,
        "host": _USE,
        "sell": _GIVE,
    },
    duties=(
        notice("1, 2"),
        Duty("name", "Do not advertise with the names of the authors.", "3"),
    ),
    names=("bsd 3", "new bsd", "revised bsd", "bsd 3 clause license"),
    vague=("bsd",),
    links=("opensource.org/licenses/bsd-3-clause", "opensource.org/license/bsd-3-clause"),
)
