"""A model as small as they get, with real classes, and a folder of pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from memcard.training.finetune.folder import Folder, read_folder
from memcard.training.finetune.model import Model, TextEncoder


@pytest.fixture(scope="session")
def parts() -> dict[str, Any]:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from transformers.models.clip.configuration_clip import CLIPTextConfig
    from transformers.models.clip.modeling_clip import CLIPTextModel, CLIPTextModelWithProjection

    text: dict[str, Any] = {
        "vocab_size": 300, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 8, "projection_dim": 12,
        "bos_token_id": 256, "eos_token_id": 257,
    }  # fmt: skip
    shape: dict[str, Any] = {
        "sample_size": 8, "in_channels": 4, "out_channels": 4, "block_out_channels": (8, 16),
        "layers_per_block": 1, "attention_head_dim": 2, "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    }  # fmt: skip
    more = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 12 + 6 * 8}  # fmt: skip
    return {
        "unet": lambda: UNet2DConditionModel(**shape, cross_attention_dim=16),
        "unet_xl": lambda: UNet2DConditionModel(**shape, **more, cross_attention_dim=32),
        "vae": lambda: AutoencoderKL(
            block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, norm_num_groups=4,
            latent_channels=4, scaling_factor=0.5,
        ),
        "text": lambda: CLIPTextModel(CLIPTextConfig(**text)),
        "text_2": lambda: CLIPTextModelWithProjection(CLIPTextConfig(**text)),
    }  # fmt: skip


def tokens(prompt: str) -> tuple[list[int], str]:
    ids = list(prompt.encode())
    return [256, *ids[:6], *[257] * (7 - min(6, len(ids)))], prompt[6:]


@pytest.fixture
def make_model(parts: dict[str, Any]) -> Callable[..., Model]:
    def make(*, xl: bool = False, prediction: str = "v_prediction") -> Model:
        torch.manual_seed(0)
        texts = [TextEncoder("text_encoder", parts["text"]().eval(), tokens, "t1")]
        if xl:
            texts.append(TextEncoder("text_encoder_2", parts["text_2"]().eval(), tokens, "t2"))
        schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
        unet = parts["unet_xl" if xl else "unet"]()
        return Model(
            *("tiny", unet, parts["vae"]().eval(), tuple(texts), schedule, prediction),
            sizes=xl, size=(16, 16), factor=2, step=4, vae_digest="v",
        )  # fmt: skip

    return make


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    root = tmp_path / "pictures"
    root.mkdir()
    sizes = {"a": (16, 16), "b": (16, 16), "c": (24, 8), "d": (16, 16), "e": (24, 8)}
    for number, (name, size) in enumerate(sizes.items()):
        Image.new("RGB", size, (40 * number, 200, 0)).save(root / f"{name}.png")
        (root / f"{name}.txt").write_text(f"{name}, tag")
    return read_folder(root)
