"""TCD: as LCM, with less noise; for models distilled to it.

Source: Zheng et al. 2024, arXiv:2402.19159.
"""

from memcard.generation.sampler import Sampler

PLUGIN = Sampler(
    a1111="TCD",
    comfyui="",
    diffusers="scheduling_tcd.TCDScheduler",
    source="arXiv:2402.19159",
    schedules=("normal",),
    random=True,
    most_steps=50,
)
