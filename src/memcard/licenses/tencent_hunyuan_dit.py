"""Tencent Hunyuan Community License of HunyuanDiT. Source: https://github.com/Tencent/HunyuanDiT/blob/main/LICENSE.txt."""

from __future__ import annotations

from memcard.core.license import License
from memcard.licenses._hunyuan import DUTIES, GIVE, SMALL
from memcard.licenses._terms import provided

PLUGIN = License(
    id="tencent-hunyuan-dit",
    title="Tencent Hunyuan Community License (HunyuanDiT)",
    version="May 14, 2024",
    source="https://github.com/Tencent/HunyuanDiT/blob/main/LICENSE.txt",
    terms={
        "commercial": provided(f"{SMALL} No rights in pictures are claimed.", "4, 6(d)"),
        "share": provided(GIVE, "3, 5(a)"),
        "merge": provided(f"{GIVE} Your own terms may be added.", "3, 5(a)"),
        "train": provided("the other model is no large language model.", "5(b)"),
        "host": provided(SMALL, "3, 4"),
        "sell": provided(f"{GIVE} And {SMALL}", "3, 4"),
    },
    duties=DUTIES,
    derivatives="carry",
    names=("tencent hunyuan dit community",),
    links=("github.com/tencent/hunyuandit/blob/main/license.txt",),
    bases=("Hunyuan 1", "Tencent-Hunyuan/HunyuanDiT", "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers"),
)
