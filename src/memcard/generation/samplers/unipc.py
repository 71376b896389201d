"""UniPC: predictor and corrector share one look. Source: Zhao et al. 2023, arXiv:2302.04867."""

from memcard.generation.sampler import Sampler

PLUGIN = Sampler(
    a1111="UniPC",
    comfyui="uni_pc_bh2",
    diffusers="scheduling_unipc_multistep.UniPCMultistepScheduler",
    source="arXiv:2302.04867",
    flow="scheduling_unipc_multistep.UniPCMultistepScheduler",
    flow_options={"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
)
