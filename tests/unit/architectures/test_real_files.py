"""Files as diffusers and torch write them, through our readers: small models, real layouts."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers

from memcard.architectures import identify
from memcard.core.architecture import Identity
from memcard.formats import open_file


def judged(path: Path) -> Identity:
    checkpoint = open_file(path)
    try:
        return identify(checkpoint.specs, checkpoint.metadata)
    finally:
        checkpoint.close()


def saved(path: Path, value: Mapping[Any, Any]) -> Identity:
    torch.save(value, path)
    return judged(path)


def tiny_clip(kind: str, **more: int) -> Any:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    options = transformers.CLIPTextConfig(num_attention_heads=4, **sizes, **more)
    return getattr(transformers, kind)(options)


@pytest.fixture(scope="module")
def unet() -> Any:
    """SDXL's skeleton at a width that takes no time."""
    return diffusers.UNet2DConditionModel(
        block_out_channels=(32, 32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        cross_attention_dim=64,
        attention_head_dim=(2, 4, 8),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=80,
    )


@pytest.mark.filterwarnings("ignore")
def test_a_pipeline_saved_by_diffusers(tmp_path: Path, unet: Any) -> None:
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers.StableDiffusionXLPipeline(
            vae=vae,
            text_encoder=tiny_clip("CLIPTextModel"),
            text_encoder_2=tiny_clip("CLIPTextModelWithProjection", projection_dim=32),
            tokenizer=None,
            tokenizer_2=None,
            unet=unet,
            scheduler=scheduler,
        ).save_pretrained(tmp_path / "xl")
    found = judged(tmp_path / "xl")

    assert (found.kind, found.architecture, found.dialect) == ("checkpoint", "sdxl", "diffusers")
    assert list(found.components) == ["unet", "text_encoder", "text_encoder_2", "vae"]
    assert (found.missing, found.variant) == ((), "v-prediction, zero terminal SNR")
    assert "the scheduler's config says v_prediction" in found.prediction_evidence


def test_a_training_run_with_its_optimizer(tmp_path: Path, unet: Any) -> None:
    weights = {f"model.diffusion_model.{n}": value for n, value in unet.state_dict().items()}
    state = {"state": {0: {"exp_avg": torch.zeros(4), "step": torch.tensor(1)}}}
    run = {"state_dict": weights, "optimizer_states": [state], "epoch": 3}
    found = saved(tmp_path / "last.ckpt", run)

    assert (found.kind, found.architecture) == ("denoiser", "sdxl")
    assert list(found.components) == ["unet", "training"]
    assert found.components["training"].parameters == 5


def test_an_optimizer_alone(tmp_path: Path) -> None:
    layer = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 4)).sum().backward()
    optimizer.step()

    assert saved(tmp_path / "optimizer.bin", optimizer.state_dict()).kind == "training"


def test_raw_and_average_weights_side_by_side_and_the_average_alone(
    tmp_path: Path, unet: Any
) -> None:
    weights = unet.state_dict()
    both = saved(tmp_path / "both.pt", {"ema": weights, "model": weights})
    alone = saved(tmp_path / "alone.pt", {"ema": weights, "step": 3})

    assert (both.architecture, both.ema, list(both.components)) == ("sdxl", True, ["unet", "ema"])
    assert (alone.architecture, alone.ema, list(alone.components)) == ("sdxl", True, ["unet"])


SMALL: dict[str, tuple[Mapping[Any, Any], tuple[str, str | None]]] = {
    "A1111's embedding": (
        {"string_to_token": {"*": 265}, "string_to_param": {"*": torch.zeros(8, 768)}, "step": 9},
        ("embedding", "sd1"),
    ),
    "diffusers' embedding": ({"<cat>": torch.zeros(1024)}, ("embedding", "sd2")),
    "A1111's hypernetwork": (
        {768: tuple({"linear.0.weight": torch.zeros(4, 768)} for _ in range(2)), "step": 1},
        ("hypernetwork", "sd1"),
    ),
    "IP-Adapter": (
        {
            "image_proj": {"proj.weight": torch.zeros(4, 4)},
            "ip_adapter": {"1.to_k_ip.weight": torch.zeros(640, 2048)},
        },
        ("ip_adapter", "sdxl"),
    ),
    "Real-ESRGAN": (
        {
            "params_ema": {
                "conv_first.weight": torch.zeros(4, 3, 3, 3),
                "body.0.rdb1.conv1.weight": torch.zeros(4, 4, 3, 3),
            }
        },
        ("upscaler", None),
    ),
}


@pytest.mark.parametrize("what", SMALL)
def test_small_files_saved_by_torch(what: str, tmp_path: Path) -> None:
    value, told = SMALL[what]
    found = saved(tmp_path / "small.pt", value)

    assert (found.kind, found.architecture) == told
