"""DPM2: a second look half-way.

Source: Karras et al. 2022, arXiv:2206.00364; Lu et al. 2022, arXiv:2206.00927.
"""

from memcard.generation.sampler import Sampler

PLUGIN = Sampler(
    a1111="DPM2",
    comfyui="dpm_2",
    diffusers="scheduling_k_dpm_2_discrete.KDPM2DiscreteScheduler",
    source="arXiv:2206.00364",
    evaluations=2,
    aliases=("kdpm_2", "dpm_2_discrete"),
    automatic="karras",
    zero_snr=False,
)
