"""Euler with fresh noise in every step. Source: k-diffusion, ``sample_euler_ancestral``."""

from memcard.generation.sampler import Sampler

PLUGIN = Sampler(
    a1111="Euler a",
    comfyui="euler_ancestral",
    diffusers="scheduling_euler_ancestral_discrete.EulerAncestralDiscreteScheduler",
    source="https://github.com/crowsonkb/k-diffusion",
    random=True,
    flow="scheduling_ltx_euler_ancestral_rf.LTXEulerAncestralRFScheduler",
)
