"""Stability AI's non-commercial research license, of SD Turbo and Stable Cascade.

Source: https://github.com/Stability-AI/generative-models (model_licenses/LICENCE-SD-Turbo). SDXL Turbo came
under it and was moved to the community license; which one a copy has depends on its date.
"""

from __future__ import annotations

from memcard.core.license import License
from memcard.licenses._terms import changes, no, non_commercial, notice, provided, restricted

_MONEY = no("Only non-commercial use is licensed, and no use in production.", "definitions, 1(a)")
_GIVE = "it is non-commercial, and the agreement and a Notice file go along."

PLUGIN = License(
    id="sai-nc-research",
    title="Stability AI Non-Commercial Research Community License",
    version="November 28, 2023",
    source="https://github.com/Stability-AI/generative-models/blob/main/model_licenses/LICENCE-SD-Turbo",
    terms={
        "commercial": _MONEY,
        "share": provided(_GIVE, "1(a), 1(c)"),
        "merge": provided(f"{_GIVE} It stays under this agreement.", "1(c)"),
        "train": provided(
            "it is non-commercial; a model made from its pictures counts as derived.", "definitions"
        ),
        "host": no("No hosted service or API for others, changed or not.", "1(b)"),
        "sell": _MONEY,
    },
    duties=(
        notice("1(c)"),
        changes("1(c)"),
        non_commercial("1(a)"),
        restricted("1(a)", "Keep to Stability's acceptable use policy."),
    ),
    derivatives="carry",
    names=(
        "sai nc community", "sai nc rc", "stability ai non commercial research community license",
        "stability ai non commercial research community license agreement", "stable cascade nc community",
    ),
    links=("huggingface.co/stabilityai/sd-turbo/blob/main/license",),
    bases=("SDXL Turbo", "Stable Cascade", "stabilityai/sd-turbo", "stabilityai/stable-cascade"),
)  # fmt: skip
