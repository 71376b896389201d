"""Stability AI Community License, of Stable Diffusion 3 and 3.5. Source: https://stability.ai/community-license-agreement."""

from __future__ import annotations

from memcard.core.license import Duty, License
from memcard.licenses._terms import changes, notice, provided, restricted

_SMALL = "you and your affiliates take in at most 1,000,000 USD a year and are registered."
_GIVE = "the agreement, a Notice file and 'Powered by Stability AI' go along."

PLUGIN = License(
    id="stabilityai-ai-community",
    title="Stability AI Community License Agreement",
    version="July 5, 2024",
    source="https://stability.ai/community-license-agreement",
    terms={
        "commercial": provided(_SMALL, "III"),
        "share": provided(_GIVE, "IV(a)"),
        "merge": provided(f"{_GIVE} The Notice file says what was changed.", "IV(a)"),
        "train": provided(
            "the other model is no foundational generative model, or is derived from this one.", "IV(b)"
        ),
        "host": provided(f"{_SMALL} Your site shows 'Powered by Stability AI'.", "III, IV(a)"),
        "sell": provided(f"{_SMALL} {_GIVE.capitalize()}", "III, IV(a)"),
    },
    duties=(
        notice("IV(a)"),
        changes("IV(a)"),
        Duty("name", "Show 'Powered by Stability AI'.", "IV(a)"),
        restricted("IV(b)", "Keep to Stability's acceptable use policy."),
        Duty("threshold", "Above 1,000,000 USD of revenue a year, ask for another license.", "III"),
        Duty("registration", "Register before any commercial use.", "III"),
    ),
    derivatives="carry",
    names=(
        "stability ai community license", "stability ai community license agreement", "stability community license",
        "stabilityai community", "stable video diffusion community", "stable audio community", "sai cla",
    ),
    links=("stability.ai/community-license-agreement", "stability.ai/license"),
    bases=(
        "SD 3", "SD 3.5", "SD 3.5 Medium", "SD 3.5 Large", "SD 3.5 Large Turbo", "sd3_medium", "sd3.5_large",
        "sd3.5_medium", "stabilityai/stable-diffusion-3-medium", "stabilityai/stable-diffusion-3.5-large",
        "stabilityai/stable-diffusion-3.5-medium", "stabilityai/stable-diffusion-3.5-large-turbo",
    ),
)  # fmt: skip
