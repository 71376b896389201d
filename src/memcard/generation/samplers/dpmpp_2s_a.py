"""DPM-Solver++ of second order in single steps, with fresh noise in every step.

Source: Lu et al. 2022, arXiv:2211.01095; k-diffusion, ``sample_dpmpp_2s_ancestral``.
"""

from memcard.generation.sampler import Sampler

PLUGIN = Sampler(
    a1111="DPM++ 2S a",
    comfyui="dpmpp_2s_ancestral",
    diffusers="memcard.generation._two_looks.DPMpp2SAncestral",
    source="arXiv:2211.01095",
    evaluations=2,
    random=True,
    automatic="karras",
    zero_snr=False,
)
