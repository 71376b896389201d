"""Tencent Hunyuan Community License of HunyuanVideo. Source: https://huggingface.co/tencent/HunyuanVideo/blob/main/LICENSE.

The same name stands on several texts that differ in 5(b) and 5(c); this is the strictest reading of them.
For HunyuanDiT, which knows no region, there is an entry of its own.
"""

from __future__ import annotations

from memcard.core.license import Duty, License
from memcard.licenses._hunyuan import DUTIES, GIVE, SMALL
from memcard.licenses._terms import no, provided

_HERE = "You are outside the European Union, the United Kingdom and South Korea."

PLUGIN = License(
    id="tencent-hunyuan-community",
    title="Tencent Hunyuan Community License (HunyuanVideo)",
    version="December 3, 2024",
    source="https://huggingface.co/tencent/HunyuanVideo/blob/main/LICENSE",
    terms={
        "commercial": provided(f"{SMALL} {_HERE}", "4, 5(c)"),
        "share": provided(f"{GIVE} {_HERE}", "3, 5"),
        "merge": provided(f"{GIVE} {_HERE}", "3, 5"),
        "train": no("It may not improve any other AI model.", "5(b)"),
        "host": provided(f"{SMALL} {_HERE}", "4, 5(c)"),
        "sell": provided(f"{SMALL} {_HERE}", "3, 4, 5(c)"),
    },
    duties=(
        *DUTIES,
        Duty("region", "Not for the European Union, the United Kingdom and South Korea.", "1, 5(c)"),
    ),
    derivatives="carry",
    names=("tencent hunyuan video community",),
    vague=("tencent hunyuan", "tencent hunyuan community license agreement", "tencent hunyuan community license"),
    links=("huggingface.co/tencent/hunyuanvideo/blob/main/license",),
    bases=("Hunyuan Video", "tencent/HunyuanVideo", "hunyuanvideo-community/HunyuanVideo"),
)  # fmt: skip
