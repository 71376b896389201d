"""DPM-Solver++ of second order as a stochastic equation.

Source: Lu et al. 2022, arXiv:2211.01095.
"""

from memcard.generation.sampler import Sampler

PLUGIN = Sampler(
    a1111="DPM++ 2M SDE",
    comfyui="dpmpp_2m_sde",
    diffusers="scheduling_dpmsolver_multistep.DPMSolverMultistepScheduler",
    source="arXiv:2211.01095",
    options={"algorithm_type": "sde-dpmsolver++"},
    random=True,
    automatic="exponential",
    flow="scheduling_dpmsolver_multistep.DPMSolverMultistepScheduler",
    flow_options={
        "algorithm_type": "sde-dpmsolver++",
        "use_flow_sigmas": True,
        "prediction_type": "flow_prediction",
    },
    edm="scheduling_edm_dpmsolver_multistep.EDMDPMSolverMultistepScheduler",
    edm_options={"algorithm_type": "sde-dpmsolver++"},
)
