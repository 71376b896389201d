"""Fair AI Public License 1.0-SD, of Animagine and Illustrious. Source: https://freedevproject.org/faipl-1.0-sd/."""

from __future__ import annotations

from memcard.core.license import License
from memcard.licenses._fair_ai import DUTIES, TERMS

PLUGIN = License(
    id="fair-ai-public-1.0-sd",
    title="Fair AI Public License 1.0-SD",
    version="1.0-SD",
    source="https://freedevproject.org/faipl-1.0-sd/",
    terms=TERMS,
    duties=DUTIES,
    derivatives="same",
    # Both are this license with further terms, published so by authors who built on it. Whether they may
    # is not for memcard to say: it adds the terms up and calls it no conflict.
    compatible=("noobai", "pony-v6"),
    network=True,
    names=("fair ai public license 1.0 sd", "faipl 1.0 sd", "illustrious license"),
    links=("freedevproject.org/faipl-1.0-sd",),
    bases=(
        "Illustrious", "cagliostrolab/animagine-xl-3.0", "cagliostrolab/animagine-xl-3.1",
        "OnomaAIResearch/Illustrious-xl-early-release-v0", "Illustrious-XL-v0.1",
    ),
)  # fmt: skip
