"""Llama 3.1 Community License. Source: https://github.com/meta-llama/llama-models/blob/main/models/llama3_1/LICENSE."""

from __future__ import annotations

from memcard.core.license import Duty, License
from memcard.licenses._llama import DUTIES, SMALL
from memcard.licenses._terms import provided

_GIVE = "the agreement, a Notice file and 'Built with Llama' go along."

PLUGIN = License(
    id="llama3.1",
    title="Llama 3.1 Community License Agreement",
    version="July 23, 2024",
    source="https://github.com/meta-llama/llama-models/blob/main/models/llama3_1/LICENSE",
    terms={
        "commercial": provided(SMALL, "1(b)(iv), 2"),
        "share": provided(_GIVE, "1(b)(i), 1(b)(iii)"),
        "merge": provided(f"{_GIVE} The name of the result begins with 'Llama'.", "1(b)(i)"),
        "train": provided("the name of the other model begins with 'Llama'.", "1(b)(i)"),
        "host": provided(f"{SMALL} Your site shows 'Built with Llama'.", "1(b)(i), 2"),
        "sell": provided(_GIVE, "1(b)(i), 2"),
    },
    duties=(
        *DUTIES,
        Duty("name", "Show 'Built with Llama'; names of models begin with 'Llama'.", "1(b)(i)"),
    ),
    derivatives="carry",
    names=("llama 3.1 community license", "llama 3.1 community license agreement"),
    links=("github.com/meta-llama/llama-models/blob/main/models/llama3_1/license",),
    bases=("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Meta-Llama-3.1-8B-Instruct"),
)
