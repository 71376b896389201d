"""DPM-Solver++ of third order, multistep. Source: Lu et al. 2022, arXiv:2211.01095."""

from memcard.generation.sampler import Sampler

PLUGIN = Sampler(
    a1111="DPM++ 3M",
    comfyui="",
    diffusers="scheduling_dpmsolver_multistep.DPMSolverMultistepScheduler",
    source="arXiv:2211.01095",
    options={"solver_order": 3},
    flow="scheduling_dpmsolver_multistep.DPMSolverMultistepScheduler",
    flow_options={"solver_order": 3, "use_flow_sigmas": True, "prediction_type": "flow_prediction"},
    edm="scheduling_edm_dpmsolver_multistep.EDMDPMSolverMultistepScheduler",
    edm_options={"solver_order": 3},
)
