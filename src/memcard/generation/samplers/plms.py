"""PLMS: DDIM with the slopes of four steps. Source: Liu et al. 2022, arXiv:2202.09778."""

from memcard.generation.sampler import Sampler

PLUGIN = Sampler(
    a1111="PLMS",
    comfyui="",
    diffusers="scheduling_pndm.PNDMScheduler",
    source="arXiv:2202.09778",
    options={"skip_prk_steps": True},
    schedules=("normal",),  # its step is a whole number of time steps
    aliases=("pndm", "PNDMScheduler"),
    zero_snr=False,
)
