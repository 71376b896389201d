"""CreativeML Open RAIL-M, of Stable Diffusion 1. Source: https://huggingface.co/spaces/CompVis/stable-diffusion-license."""

from __future__ import annotations

from memcard.core.license import License
from memcard.licenses._rail import DUTIES, FITS, TERMS

PLUGIN = License(
    id="creativeml-openrail-m",
    title="CreativeML Open RAIL-M",
    version="August 22, 2022",
    source="https://huggingface.co/spaces/CompVis/stable-diffusion-license",
    terms=TERMS,
    duties=DUTIES,
    derivatives="carry",
    compatible=FITS,
    names=("creativeml open rail m license", "creative ml openrail m", "stable diffusion license"),
    vague=("openrail", "openrail m", "creativeml openrail"),
    links=("huggingface.co/spaces/compvis/stable-diffusion-license",),
    bases=(
        "SD 1.4", "SD 1.5", "runwayml/stable-diffusion-v1-5", "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "CompVis/stable-diffusion-v1-4", "v1-5-pruned", "v1-5-pruned-emaonly", "sd-v1-4", "sd-v1-5",
    ),
)  # fmt: skip
