"""The license of Pony Diffusion V6 XL: Fair AI 1.0-SD, and no paid inference. Source: https://civitai.com/models/257749."""

from __future__ import annotations

from memcard.core.license import License
from memcard.licenses._fair_ai import DUTIES, TERMS
from memcard.licenses._terms import no

PLUGIN = License(
    id="pony-v6",
    title="Fair AI Public License 1.0-SD with the terms of Pony Diffusion V6 XL",
    version="V6 XL",
    source="https://civitai.com/models/257749",
    terms={
        **TERMS,
        "host": no(
            "No site or app with any form of payment may run it or merges of it, but for Civitai and "
            "Hugging Face.",
            "model page, license",
        ),
    },
    duties=DUTIES,
    derivatives="same",
    network=True,
    names=("pony license", "pony diffusion license", "fair ai public license 1.0 sd modified"),
    bases=("Pony", "ponyDiffusionV6XL", "ponyDiffusionV6XL_v6StartWithThisOne"),
)
