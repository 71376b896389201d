"""Playground v2.5 Community License. Source: https://huggingface.co/playgroundai/playground-v2.5-1024px-aesthetic."""

from __future__ import annotations

from memcard.core.license import Duty, License
from memcard.licenses._terms import no, notice, provided, restricted

_SMALL = "making pictures is not your core business, or has at most 1 million monthly users."
_GIVE = "the agreement and its attribution notice go along."

PLUGIN = License(
    id="playground-v2.5-community",
    title="Playground v2.5 Community License",
    version="February 27, 2024",
    source="https://huggingface.co/playgroundai/playground-v2.5-1024px-aesthetic/blob/main/LICENSE.md",
    terms={
        "commercial": provided(_SMALL, "2"),
        "share": provided(_GIVE, "1(b)(i), 1(b)(iii)"),
        "merge": provided(f"{_GIVE} The forbidden uses stay.", "1(b)(i)-(iv)"),
        "train": no("Pictures may not improve another text-to-image model.", "1(b)(v)"),
        "host": provided(_SMALL, "2"),
        "sell": provided(f"{_GIVE} And {_SMALL}", "1(b), 2"),
    },
    duties=(
        notice("1(b)(i), 1(b)(iii)"),
        restricted("1(b)(iv), Attachment A"),
        Duty("threshold", "Above 1 million monthly users, ask for another license.", "2"),
    ),
    derivatives="carry",
    names=("playground v2dot5 community", "playground v2.5 community license"),
    links=("huggingface.co/playgroundai/playground-v2.5-1024px-aesthetic/blob/main/license.md",),
    bases=("playgroundai/playground-v2.5-1024px-aesthetic", "playground-v2.5-1024px-aesthetic.fp16"),
)  # fmt: skip
