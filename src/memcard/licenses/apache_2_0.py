"""Apache License 2.0. Source: https://www.apache.org/licenses/LICENSE-2.0."""

from __future__ import annotations

from memcard.core.license import License
from memcard.licenses._terms import changes, notice, provided, yes

_USE = yes("Use for any purpose is granted, and nothing is said of what is made with it.", "2")
_GIVE = provided("the license, its notices and the NOTICE file go along.", "4(a), 4(c), 4(d)")

PLUGIN = License(
    id="apache-2.0",
    title="Apache License 2.0",
    version="2.0",
    source="https://www.apache.org/licenses/LICENSE-2.0",
    spdx="Apache-2.0",
    terms={
        "commercial": _USE,
        "share": _GIVE,
        "merge": provided("the notices go along, and changed files say so.", "4(a)-(d)"),
        "train": _USE,
        "host": _USE,
        "sell": _GIVE,
    },
    duties=(notice("4(a), 4(c), 4(d)"), changes("4(b)")),
    names=("apache 2", "apache license version 2.0", "apache license 2", "apache 2.0 license", "asl 2.0"),
    vague=("apache", "apache license"),
    links=("www.apache.org/licenses/license-2.0", "apache.org/licenses/license-2.0"),
    bases=(
        "black-forest-labs/FLUX.1-schnell", "flux1-schnell", "Flux.1 S", "black-forest-labs/FLUX.2-klein-4B",
        "Flux.2 Klein 4B", "Flux.2 Klein 4B-base", "AuraFlow", "Chroma", "Lumina", "Mochi", "Qwen", "Wan Video",
        "Wan Video 1.3B t2v", "Wan Video 14B t2v", "Wan Video 14B i2v 480p", "Wan Video 14B i2v 720p",
        "Wan Video 2.2 I2V-A14B", "Wan Video 2.2 T2V-A14B", "Wan Video 2.2 TI2V-5B", "genmo/mochi-1-preview",
        "Qwen/Qwen-Image", "lodestones/Chroma",
    ),
)  # fmt: skip
