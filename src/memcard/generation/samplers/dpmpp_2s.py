"""DPM-Solver++ of second order, every two steps anew. Source: Lu et al. 2022, arXiv:2211.01095."""

from memcard.generation.sampler import Sampler

PLUGIN = Sampler(
    a1111="DPM++ 2S",
    comfyui="",
    diffusers="scheduling_dpmsolver_singlestep.DPMSolverSinglestepScheduler",
    source="arXiv:2211.01095",
    options={"lower_order_final": True},
    flow="scheduling_dpmsolver_singlestep.DPMSolverSinglestepScheduler",
    flow_options={
        "lower_order_final": True,
        "use_flow_sigmas": True,
        "prediction_type": "flow_prediction",
    },
)
