"""DPM-Solver++ of second order, multistep. Source: Lu et al. 2022, arXiv:2211.01095."""

from memcard.generation.sampler import Sampler

PLUGIN = Sampler(
    a1111="DPM++ 2M",
    comfyui="dpmpp_2m",
    diffusers="scheduling_dpmsolver_multistep.DPMSolverMultistepScheduler",
    source="arXiv:2211.01095",
    automatic="karras",
    flow="scheduling_dpmsolver_multistep.DPMSolverMultistepScheduler",
    flow_options={"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
    edm="scheduling_edm_dpmsolver_multistep.EDMDPMSolverMultistepScheduler",
)
