"""DPM-Solver++ as a stochastic equation, two looks per step.

Source: Lu et al. 2022, arXiv:2211.01095; k-diffusion, ``sample_dpmpp_sde``.
"""

from memcard.generation.sampler import Sampler

PLUGIN = Sampler(
    a1111="DPM++ SDE",
    comfyui="dpmpp_sde",
    diffusers="memcard.generation._two_looks.DPMppSDE",
    source="arXiv:2211.01095",
    evaluations=2,
    random=True,
    aliases=("DPMSolverSDEScheduler",),
    automatic="karras",
    zero_snr=False,
)
