"""Meta Llama 3 Community License. Source: https://github.com/meta-llama/llama3/blob/main/LICENSE."""

from __future__ import annotations

from memcard.core.license import Duty, License
from memcard.licenses._llama import DUTIES, SMALL
from memcard.licenses._terms import provided

_GIVE = "the agreement, a Notice file and 'Built with Meta Llama 3' go along."

PLUGIN = License(
    id="llama3",
    title="Meta Llama 3 Community License Agreement",
    version="April 18, 2024",
    source="https://github.com/meta-llama/llama3/blob/main/LICENSE",
    terms={
        "commercial": provided(SMALL, "1(b)(iv), 2"),
        "share": provided(_GIVE, "1(b)(i), 1(b)(iii)"),
        "merge": provided(f"{_GIVE} The name of the result begins with 'Llama 3'.", "1(b)(i)"),
        "train": provided("the other model is no large language model.", "1(b)(v)"),
        "host": provided(f"{SMALL} Your site shows 'Built with Meta Llama 3'.", "1(b)(i), 2"),
        "sell": provided(_GIVE, "1(b)(i), 2"),
    },
    duties=(
        *DUTIES,
        Duty("name", "Show 'Built with Meta Llama 3'; names of models begin with 'Llama 3'.", "1(b)(i)"),
    ),
    derivatives="carry",
    names=("meta llama 3 community license", "meta llama 3 community license agreement"),
    links=("github.com/meta-llama/llama3/blob/main/license", "llama.meta.com/llama3/license"),
    bases=("meta-llama/Meta-Llama-3-8B", "meta-llama/Meta-Llama-3-8B-Instruct"),
)  # fmt: skip
