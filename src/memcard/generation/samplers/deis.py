"""DEIS: exponential integrator, multistep. Source: Zhang and Chen 2022, arXiv:2204.13902."""

from memcard.generation.sampler import Sampler

PLUGIN = Sampler(
    a1111="DEIS",
    comfyui="deis",
    diffusers="memcard.generation._deis.DEISMultistepScheduler",
    source="arXiv:2204.13902",
    flow="memcard.generation._deis.DEISMultistepScheduler",
    flow_options={"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
)
