"""Euler: one step along the slope. Source: Karras et al. 2022, arXiv:2206.00364, Algorithm 2."""

from memcard.generation.sampler import Sampler

PLUGIN = Sampler(
    a1111="Euler",
    comfyui="euler",
    diffusers="scheduling_euler_discrete.EulerDiscreteScheduler",
    source="arXiv:2206.00364",
    flow="scheduling_flow_match_euler_discrete.FlowMatchEulerDiscreteScheduler",
    edm="scheduling_edm_euler.EDMEulerScheduler",
)
