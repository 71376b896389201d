"""Kolors model license. Source: https://github.com/Kwai-Kolors/Kolors/blob/master/MODEL_LICENSE."""

from __future__ import annotations

from memcard.core.license import Duty, License
from memcard.licenses._terms import changes, no, notice, provided, restricted

_MONEY = "you are registered with the licensor and have at most 300 million monthly users."
_GIVE = "the source of the model and the agreement go along, with the restrictions of section 3."

PLUGIN = License(
    id="kolors",
    title="Kolors Model License Agreement",
    version="July 6, 2024",
    source="https://github.com/Kwai-Kolors/Kolors/blob/master/MODEL_LICENSE",
    terms={
        "commercial": provided(_MONEY, "2(c)"),
        "share": provided(_GIVE, "2(b)(i), 3(a)"),
        "merge": provided(f"{_GIVE} Your own terms may be added.", "2(b)(iii), 3(a)"),
        "train": no("Pictures may not improve another large model.", "3(b)"),
        "host": provided(_MONEY, "2(c)"),
        "sell": provided(f"{_MONEY} And {_GIVE}", "2(b), 2(c)"),
    },
    duties=(
        notice("2(b)(i)"),
        changes("2(b)(ii)"),
        restricted("3(a), 3(b)", "Keep to the service agreement, and bind whoever gets it to it."),
        Duty("registration", "Register before any commercial use.", "2(c)"),
        Duty("threshold", "Above 300 million monthly users, ask for another license.", "2(c)"),
    ),
    derivatives="carry",
    names=("kolors license", "kolors model license agreement", "kwai kolors"),
    links=("raw.githubusercontent.com/kwai-kolors/kolors/master/model_license", "github.com/kwai-kolors/kolors/blob/master/model_license"),
    bases=("Kolors", "Kwai-Kolors/Kolors", "Kwai-Kolors/Kolors-diffusers"),
)  # fmt: skip
