"""LCM: straight to the picture, then noise again; for models distilled to it.

Source: Luo et al. 2023, arXiv:2310.04378.
"""

from memcard.generation.sampler import Sampler

PLUGIN = Sampler(
    a1111="LCM",
    comfyui="lcm",
    diffusers="scheduling_lcm.LCMScheduler",
    source="arXiv:2310.04378",
    schedules=("normal",),
    random=True,
    most_steps=50,
    flow="scheduling_flow_match_lcm.FlowMatchLCMScheduler",
)
