"""WTFPL 2. Source: http://www.wtfpl.net/about/."""

from __future__ import annotations

from memcard.core.license import USES, License
from memcard.licenses._terms import yes

PLUGIN = License(
    id="wtfpl",
    title="Do What The F*ck You Want To Public License",
    version="2",
    source="http://www.wtfpl.net/about/",
    spdx="WTFPL",
    terms=dict.fromkeys(USES, yes("Everything is allowed.", "0")),
    links=("www.wtfpl.net", "wtfpl.net"),
)
