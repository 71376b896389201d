"""DeepFloyd IF license. Source: https://github.com/deep-floyd/IF/blob/develop/LICENSE-MODEL."""

from __future__ import annotations

from memcard.core.license import License
from memcard.licenses._terms import no, non_commercial, notice, provided, restricted

_MONEY = no("It is for non-commercial research, and so is any data it produces.", "1(a), 2(a)")
_GIVE = "it is for non-commercial research, and the license and its attribution notice go along."

PLUGIN = License(
    id="deepfloyd-if-license",
    title="DeepFloyd IF License Agreement",
    version="2023",
    source="https://github.com/deep-floyd/IF/blob/develop/LICENSE-MODEL",
    terms={
        "commercial": _MONEY,
        "share": provided(_GIVE, "1(a), 3"),
        "merge": provided(_GIVE, "1(a), 3"),
        "train": provided("that is non-commercial research too.", "1(a), 2(a)"),
        "host": _MONEY,
        "sell": _MONEY,
    },
    duties=(notice("3"), non_commercial("1(a), 2(a)", "Non-commercial research only."), restricted("2(a)")),
    derivatives="carry",
    names=("deepfloyd if", "deepfloyd if license agreement", "deepfloyd license"),
    links=("huggingface.co/spaces/deepfloyd/deepfloyd-if-license", "github.com/deep-floyd/if/blob/develop/license-model"),
    bases=("DeepFloyd/IF-I-XL-v1.0", "DeepFloyd/IF-II-L-v1.0"),
)  # fmt: skip
