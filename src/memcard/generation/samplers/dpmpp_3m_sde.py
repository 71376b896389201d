"""DPM-Solver++ of third order as a stochastic equation.

Source: Lu et al. 2022, arXiv:2211.01095.
"""

from memcard.generation.sampler import Sampler

PLUGIN = Sampler(
    a1111="DPM++ 3M SDE",
    comfyui="dpmpp_3m_sde",
    diffusers="memcard.generation._dpmpp_3m_sde.DPMSolverMultistepScheduler",
    source="arXiv:2211.01095",
    options={"algorithm_type": "sde-dpmsolver++", "solver_order": 3},
    random=True,
    automatic="exponential",
    # no flow: its third order overshoots on the steep first steps of one
)
