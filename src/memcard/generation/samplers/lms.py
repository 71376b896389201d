"""LMS: the slopes of four steps in one curve. Source: k-diffusion, ``sample_lms``."""

from memcard.generation.sampler import Sampler

PLUGIN = Sampler(
    a1111="LMS",
    comfyui="lms",
    diffusers="memcard.generation._lms.LMSDiscreteScheduler",
    source="https://github.com/crowsonkb/k-diffusion",
    zero_snr=False,
)
