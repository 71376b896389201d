"""Heun: two looks per step. Source: Karras et al. 2022, arXiv:2206.00364, Algorithm 1."""

from memcard.generation.sampler import Sampler

PLUGIN = Sampler(
    a1111="Heun",
    comfyui="heun",
    diffusers="scheduling_heun_discrete.HeunDiscreteScheduler",
    source="arXiv:2206.00364",
    evaluations=2,
    flow="scheduling_flow_match_heun_discrete.FlowMatchHeunDiscreteScheduler",
    zero_snr=False,
)
