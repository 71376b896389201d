"""The license of NoobAI XL: Fair AI 1.0-SD, and no commercial use. Source: https://huggingface.co/Laxhar/noobai-XL-1.0."""

from __future__ import annotations

from memcard.core.license import License
from memcard.licenses._fair_ai import DUTIES, TERMS
from memcard.licenses._terms import no, non_commercial

_WHERE = "model card, Model License, II"
_MONEY = no("The model, what is derived from it and its pictures may not be commercial.", _WHERE)

PLUGIN = License(
    id="noobai",
    title="Fair AI Public License 1.0-SD with the terms of NoobAI XL",
    version="NoobAI XL 1.0",
    source="https://huggingface.co/Laxhar/noobai-XL-1.0/blob/main/README.md",
    terms={**TERMS, "commercial": _MONEY, "host": _MONEY, "sell": _MONEY},
    duties=(*DUTIES, non_commercial(_WHERE)),
    derivatives="same",
    network=True,
    names=("noobai license", "noobai xl license"),
    links=("huggingface.co/laxhar/noobai-xl-1.0/blob/main/readme.md#model-license",),
    bases=("NoobAI", "Laxhar/noobai-XL-1.0", "Laxhar/noobai-XL-1.1", "Laxhar/noobai-XL-Vpred-1.0"),
)
