"""What the Llama community licenses have in common; Llama is a text encoder of HiDream and HunyuanVideo.

Source: https://github.com/meta-llama/llama3/blob/main/LICENSE and
https://github.com/meta-llama/llama-models/blob/main/models/llama3_1/LICENSE.
"""

from __future__ import annotations

from typing import Final

from memcard.core.license import Duty
from memcard.licenses._terms import notice, restricted

SMALL: Final = "you had at most 700 million monthly users when this version came out."
DUTIES: Final[tuple[Duty, ...]] = (
    notice("1(b)(i), 1(b)(iii)"),
    restricted("1(b)(iv)", "Keep to the acceptable use policy."),
    Duty("threshold", "Above 700 million monthly users, ask for another license.", "2"),
)
