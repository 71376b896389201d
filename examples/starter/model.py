"""The starter's networks: the classes of Stable Diffusion, in miniature.

Shapes come from ``src/memcard/starter/config``, so the code that trains and the package that runs the
starter cannot disagree.
"""

from __future__ import annotations

from pathlib import Path

from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

CONFIG = Path(__file__).parents[2] / "src/memcard/starter/config"
TOKENS = 24


class Starter(nn.Module):
    """UNet and text encoder, trained as one."""

    def __init__(self, config: Path = CONFIG) -> None:
        super().__init__()
        shape = UNet2DConditionModel.load_config(config / "unet")
        self.unet = UNet2DConditionModel.from_config(shape)
        # The fused CPU attention's backward took 31 % of a step; plain bmm is faster at 8x8 and 4x4.
        self.unet.set_attn_processor(AttnProcessor())
        self.text = CLIPTextModel(CLIPTextConfig.from_pretrained(config / "text_encoder"))
        self.tokenizer = CLIPTokenizer.from_pretrained(config / "tokenizer")
        noise = DDPMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            prediction_type="v_prediction",
        )
        self.alphas: Tensor = noise.alphas_cumprod


def tokenise(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Return ``[n, 24]`` token ids."""
    batch = tokenizer(
        texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
    )
    return batch.input_ids


def new_starter() -> Starter:
    """Return an untrained starter."""
    return Starter()


def read_starter(path: Path, *, prefix: str = "") -> Starter:
    """Read a starter from the names ``unet.*`` and ``text.*`` under ``prefix``."""
    model = Starter()
    stored = load_file(path)
    state = {n.removeprefix(prefix): t for n, t in stored.items() if n.startswith(prefix)}
    model.load_state_dict({n: t.float() for n, t in state.items()})
    return model
