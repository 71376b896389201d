"""UniPC with its other step function, B1. Source: Zhao et al. 2023, arXiv:2302.04867."""

from memcard.generation.sampler import Sampler

PLUGIN = Sampler(
    a1111="UniPC bh1",
    comfyui="uni_pc",
    diffusers="memcard.generation._unipc.UniPCMultistepScheduler",
    source="arXiv:2302.04867",
    options={"solver_type": "bh1"},
)
