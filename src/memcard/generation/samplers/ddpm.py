"""DDPM: the way back as it was defined, with noise. Source: Ho et al. 2020, arXiv:2006.11239."""

from memcard.generation.sampler import Sampler

PLUGIN = Sampler(
    a1111="DDPM",
    comfyui="ddpm",
    diffusers="scheduling_ddpm.DDPMScheduler",
    source="arXiv:2006.11239",
    schedules=("normal", "trailing"),
    random=True,
)
