"""BigScience OpenRAIL-M. Source: https://huggingface.co/spaces/bigscience/license."""

from __future__ import annotations

from memcard.core.license import License
from memcard.licenses._rail import DUTIES, FITS, TERMS

PLUGIN = License(
    id="bigscience-openrail-m",
    title="BigScience Open RAIL-M",
    version="August 18, 2022",
    source="https://huggingface.co/spaces/bigscience/license",
    terms=TERMS,
    duties=DUTIES,
    derivatives="carry",
    compatible=FITS,
    names=("bigscience open rail m license",),
    links=("huggingface.co/spaces/bigscience/license", "www.bigscience.huggingface.co/blog/bigscience-openrail-m"),
)  # fmt: skip
