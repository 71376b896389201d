"""FLUX.1 [dev] non-commercial license, the first one. Source: https://github.com/black-forest-labs/flux, August 2024.

Section 2(d) lets pictures be sold; 1(c) allows no payment from "the model or its output", and 4(a) no
commercial use of data it produced. Later versions say it without contradiction. A name without version is
read as this one, the stricter.
"""

from __future__ import annotations

from memcard.core.license import License
from memcard.licenses._flux import DUTIES, TERMS
from memcard.licenses._terms import unclear

PLUGIN = License(
    id="flux-1-dev-1.0",
    title="FLUX.1 [dev] Non-Commercial License, first version",
    version="August 2024",
    source="https://github.com/black-forest-labs/flux/blob/1f71c43377442214387f8f07b32500df79ba1067/model_licenses/LICENSE-FLUX1-dev",
    terms={**TERMS, "commercial": unclear(
            "2(d) allows it; 1(c) allows no payment from output, 4(a) no commercial use of it.",
            "1(c), 2(d), 4(a)",
        )},
    duties=DUTIES,
    derivatives="carry",
    names=("flux 1 dev non commercial license v1.0", "flux 1 dev 1.0"),
    vague=(
        "flux 1 dev non commercial license", "flux 1 dev non commercial", "flux 1 dev", "flux1 dev",
        "flux.1 [dev] non-commercial license", "flux dev non commercial license",
    ),
    links=("huggingface.co/black-forest-labs/flux.1-dev/blob/main/license.md",),
    bases=("Flux.1 D", "black-forest-labs/FLUX.1-dev", "flux1-dev", "flux1-dev-fp8"),
)  # fmt: skip
