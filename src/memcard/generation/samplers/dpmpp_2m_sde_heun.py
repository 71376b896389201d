"""DPM-Solver++ of second order as a stochastic equation, by Heun.

Source: Lu et al. 2022, arXiv:2211.01095.
"""

from memcard.generation.sampler import Sampler

PLUGIN = Sampler(
    a1111="DPM++ 2M SDE Heun",
    comfyui="dpmpp_2m_sde_heun",
    diffusers="scheduling_dpmsolver_multistep.DPMSolverMultistepScheduler",
    source="arXiv:2211.01095",
    options={"algorithm_type": "sde-dpmsolver++", "solver_type": "heun"},
    random=True,
    automatic="exponential",
    flow="scheduling_dpmsolver_multistep.DPMSolverMultistepScheduler",
    flow_options={
        "algorithm_type": "sde-dpmsolver++",
        "solver_type": "heun",
        "use_flow_sigmas": True,
        "prediction_type": "flow_prediction",
    },
)
