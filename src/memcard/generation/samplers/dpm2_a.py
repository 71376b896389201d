"""DPM2 with fresh noise in every step. Source: k-diffusion, ``sample_dpm_2_ancestral``."""

from memcard.generation.sampler import Sampler

PLUGIN = Sampler(
    a1111="DPM2 a",
    comfyui="dpm_2_ancestral",
    diffusers="scheduling_k_dpm_2_ancestral_discrete.KDPM2AncestralDiscreteScheduler",
    source="https://github.com/crowsonkb/k-diffusion",
    evaluations=2,
    random=True,
    aliases=("kdpm_2_a", "dpm_2_a"),
    automatic="karras",
    zero_snr=False,
)
