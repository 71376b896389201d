"""What the Tencent Hunyuan community licenses have in common.

Source: https://github.com/Tencent/HunyuanDiT/blob/main/LICENSE.txt and
https://huggingface.co/tencent/HunyuanVideo/blob/main/LICENSE.
"""

from __future__ import annotations

from typing import Final

from memcard.core.license import Duty
from memcard.licenses._terms import changes, notice, restricted

SMALL: Final = "you had at most 100 million monthly users when this version came out."
GIVE: Final = (
    "the agreement and a Notice file go along, and the forbidden uses bind whoever gets it."
)
DUTIES: Final[tuple[Duty, ...]] = (
    notice("3(a), 3(d)"),
    changes("3(b)"),
    restricted("5(a), Exhibit A", "Keep to the acceptable use policy, and bind whoever gets it to it."),
    Duty("threshold", "Above 100 million monthly users, ask for another license.", "4"),
    Duty("safeguards", "In public, say that a machine made it.", "Exhibit A, 11"),
)  # fmt: skip
