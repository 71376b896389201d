"""DDIM without noise (eta 0). Source: Song et al. 2020, arXiv:2010.02502."""

from memcard.generation.sampler import Sampler

PLUGIN = Sampler(
    a1111="DDIM",
    comfyui="ddim",
    diffusers="scheduling_ddim.DDIMScheduler",
    source="arXiv:2010.02502",
    schedules=("normal", "trailing"),
)
