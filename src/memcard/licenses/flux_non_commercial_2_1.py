"""FLUX non-commercial license 2.1, of FLUX.2. Source: https://huggingface.co/black-forest-labs/FLUX.2-dev/blob/main/LICENSE.md."""

from __future__ import annotations

from memcard.core.license import Duty, License
from memcard.licenses._flux import DUTIES, FILTERS, SELLS_PICTURES, TERMS

PLUGIN = License(
    id="flux-non-commercial-2.1",
    title="FLUX Non-Commercial License 2.1",
    version="2.1",
    source="https://huggingface.co/black-forest-labs/FLUX.2-dev/blob/main/LICENSE.md",
    terms={**TERMS, "commercial": SELLS_PICTURES},
    duties=(
        *DUTIES,
        FILTERS,
        Duty("safeguards", "Say that pictures were made by AI where the law asks for it.", "2(e)"),
    ),
    derivatives="carry",
    names=("flux non commercial license v2.1",),
    vague=("flux non commercial license", "flux 2 dev non commercial license", "flux dev non commercial license v2.0"),
    links=("huggingface.co/black-forest-labs/flux.2-dev/blob/main/license.md",),
    bases=(
        "Flux.2 D", "Flux.2 Klein 9B", "Flux.2 Klein 9B-base", "black-forest-labs/FLUX.2-dev",
        "black-forest-labs/FLUX.2-klein-9B",
    ),
)  # fmt: skip
