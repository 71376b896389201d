"""FLUX.1 [dev] non-commercial license 1.1.1, also of Kontext and Krea. Source: https://github.com/black-forest-labs/flux."""

from __future__ import annotations

from memcard.core.license import License
from memcard.licenses._flux import DUTIES, FILTERS, SELLS_PICTURES, TERMS

PLUGIN = License(
    id="flux-1-dev-1.1.1",
    title="FLUX.1 [dev] Non-Commercial License 1.1.1",
    version="1.1.1",
    source="https://github.com/black-forest-labs/flux/blob/main/model_licenses/LICENSE-FLUX1-dev",
    terms={**TERMS, "commercial": SELLS_PICTURES},
    duties=(*DUTIES, FILTERS),
    derivatives="carry",
    names=("flux 1 dev non commercial license v1.1.1", "flux 1 dev non commercial license 1.1.1"),
    bases=(
        "Flux.1 Kontext", "Flux.1 Krea", "black-forest-labs/FLUX.1-Kontext-dev",
        "black-forest-labs/FLUX.1-Krea-dev",
    ),
)  # fmt: skip
