"""Gemma terms of use, of text encoders as in Lumina 2 and Sana. Source: https://ai.google.dev/gemma/terms."""

from __future__ import annotations

from memcard.core.license import License
from memcard.licenses._terms import changes, notice, provided, restricted

_POLICY = "it is not against the prohibited use policy."
_GIVE = "the agreement, a Notice file and the use restrictions go along."

PLUGIN = License(
    id="gemma",
    title="Gemma Terms of Use",
    version="April 1, 2024",
    source="https://ai.google.dev/gemma/terms",
    terms={
        "commercial": provided(f"{_POLICY} No rights in output are claimed.", "3.2, 3.3"),
        "share": provided(_GIVE, "3.1"),
        "merge": provided(f"{_GIVE} Changed files say so.", "3.1"),
        "train": provided(
            "you treat the other model as a derivative when it is to perform like this one.", "1.1(e), 3.1"
        ),
        "host": provided("your users are bound to the use restrictions.", "1.1(b), 3.1"),
        "sell": provided(_GIVE, "3.1"),
    },
    duties=(
        notice("3.1"),
        changes("3.1"),
        restricted("3.2", "Keep to the prohibited use policy, and bind whoever gets it to it."),
    ),
    derivatives="carry",
    names=("gemma terms of use", "google gemma terms of use", "gemma license"),
    links=("ai.google.dev/gemma/terms",),
    bases=("google/gemma-2-2b", "google/gemma-2-2b-it", "google/gemma-2b"),
)  # fmt: skip
