"""Which autoencoder a set of tensors is, under its authors' names or diffusers'.

Signs as for families; all are tried, the first that holds names it, so they shut each other out.
SD's and SDXL's have the same shapes, and so have SD3's and Flux's: no header tells them apart.

Source: diffusers ``models/autoencoders``; each project's own autoencoder.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from memcard.architectures._names import Names
from memcard.architectures._signs import Sign, any_of, has, lacks, rank, width

_INNER: Final = ("", "model.", "module.", "vae.", "first_stage_model.", "autoencoder.")

_IN: Final = "decoder.conv_in.weight"
_CAUSAL: Final = "decoder.conv_in.conv.weight"  # HunyuanVideo, CogVideoX, LTX wrap the kernel
_MIDDLE: Final = (
    "decoder.mid.block_1.conv1.weight",
    "decoder.mid_block.resnets.0.conv1.weight",
)


@dataclass(frozen=True, slots=True)
class Autoencoder:
    """One kind."""

    name: str  # such as "SD or SDXL, 4 channels"
    signs: tuple[Sign, ...]
    family: str | None = None  # the only one that uses it


_PLAIN: Final = (
    rank(_IN, 4),
    has(*_MIDDLE),
    lacks("decoder.condition_encoder.", "decoder.temp_conv_in."),
)
_STILL: Final = lacks(
    "decoder.up.0.block.0.time_stack.", "quantize.", "decoder.mid_block.resnets.0.norm1.conv_y."
)

AUTOENCODERS: Final = (
    Autoencoder("SD or SDXL, 4 channels", (*_PLAIN, _STILL, width(_IN, 1, 4), has("post_quant_conv.weight"))),
    Autoencoder("SD3 or Flux, 16 channels", (*_PLAIN, _STILL, width(_IN, 1, 16), lacks("post_quant_conv."))),
    Autoencoder("KL, 16 channels", (*_PLAIN, _STILL, width(_IN, 1, 16), has("post_quant_conv.weight"))),
    Autoencoder("Flux.2, 32 channels", (*_PLAIN, width(_IN, 1, 32), has("bn.running_mean")), "flux2"),
    Autoencoder("KL, 8 channels", (*_PLAIN, _STILL, width(_IN, 1, 8))),
    Autoencoder("KL, 3 channels", (*_PLAIN, _STILL, width(_IN, 1, 3))),
    Autoencoder(
        "SVD, 4 channels over time",
        (has("decoder.up.0.block.0.time_stack.in_layers.2.weight",
             "decoder.mid_block.resnets.0.spatial_res_block.conv1.weight"),),
        "svd",
    ),
    Autoencoder("SD asymmetric, 4 channels", (has("decoder.condition_encoder."),)),
    Autoencoder(
        "VQ (Latent Diffusion)",
        (has("quantize.embedding.weight"), has("decoder.mid.block_1.conv1.weight")),
    ),
    Autoencoder(
        "MoVQ, 4 channels",
        (has("quantize.embedding.weight"), has("decoder.mid_block.resnets.0.norm1.conv_y.weight")),
        "kandinsky22",
    ),
    Autoencoder(
        "Wan 2.1, 16 channels",
        (width(("decoder.conv1.weight", "decoder.conv_in.weight"), 1, 16),
         has("decoder.middle.0.residual.0.gamma", "decoder.mid_block.resnets.0.norm1.gamma")),
    ),
    Autoencoder(
        "Wan 2.2, 48 channels",
        (width(("decoder.conv1.weight", "decoder.conv_in.weight"), 1, 48),
         has("decoder.middle.0.residual.0.gamma", "decoder.mid_block.resnets.0.norm1.gamma")),
    ),
    Autoencoder(
        "HunyuanVideo, 16 channels",
        (width(_CAUSAL, 1, 16), has("decoder.mid_block.resnets.0.conv1.conv.weight"),
         has("post_quant_conv.weight"), lacks("decoder.mid_block.resnets.0.norm1.norm_layer.")),
        "hunyuan_video",
    ),
    Autoencoder(
        "HunyuanVideo 1.5 or Hunyuan-Image refiner, 32 channels",
        (width((_CAUSAL, _IN), 1, 32), rank((_CAUSAL, _IN), 5), lacks("per_channel_statistics.")),
    ),
    Autoencoder("Hunyuan-Image 2.1, 64 channels", (width(_IN, 1, 64), rank(_IN, 4)), "hunyuan_image"),
    Autoencoder(
        "CogVideoX, 16 channels",
        (has("decoder.mid_block.resnets.0.norm1.norm_layer.weight",
             "decoder.mid.block_1.norm1.norm_layer.weight"),),
        "cogvideox",
    ),
    Autoencoder("LTX, 128 channels", (width(_CAUSAL, 1, 128), rank(_CAUSAL, 5))),
    Autoencoder("LTX-2 (sound), 8 channels", (width(_CAUSAL, 1, 8), rank(_CAUSAL, 4)), "ltx2"),
    Autoencoder(
        "Mochi, 12 channels",
        (has("decoder.block_in.resnets.0.conv1.conv.weight", "decoder.blocks.0.0.weight",
             "blocks.0.0.weight"),
         width(("decoder.conv_in.weight", "decoder.blocks.0.0.weight", "blocks.0.0.weight"), 1, 12)),
        "mochi",
    ),
    Autoencoder("Cosmos 1.0, 16 channels", (has("decoder.conv_in.conv_s.weight", "decoder.conv_in.0.conv3d.weight"),), "cosmos1"),
    Autoencoder(
        "DC-AE, 32 channels",
        (any_of(has("decoder.project_in.main.conv.weight", "decoder.stages.0.0.main.conv1.conv.weight"),
                has("decoder.up_blocks.0.1.norm.weight", "decoder.up_blocks.5.0.norm.weight")),
         width(("decoder.project_in.main.conv.weight", _IN), 1, 32), lacks("decoder.mid_block.")),
        "sana",
    ),
    Autoencoder("Allegro, 4 channels", (has("decoder.temp_conv_in.weight"),)),
    Autoencoder("EasyAnimate, 16 channels", (has("decoder.mid_block.convs.0.conv1.weight"),)),
    Autoencoder("Oobleck (sound)", (has("decoder.block.0.snake1.alpha"),)),
    Autoencoder(
        "Stable Cascade stage A", (has("vquantizer.codebook.weight"), has("in_block.1.weight")),
        "stable_cascade",
    ),
    Autoencoder("Stable Cascade EfficientNet", (has("backbone.0.0.weight"), has("mapper.0.weight")), "stable_cascade"),
    Autoencoder("TAESD (tiny)", (has("decoder.layers.0.weight", "decoder.layers.1.weight", "taesd_decoder.1.weight", "decoder.1.weight"), lacks("decoder.conv_in."))),
)  # fmt: skip


def autoencoder(names: Names, prefix: str = "") -> Autoencoder | None:
    """Recognise an autoencoder below a prefix; None if there is none."""
    for inner in _INNER if not prefix else ("",):
        root = names.root(prefix + inner)
        if not root.specs:
            continue
        for kind in AUTOENCODERS:
            if all(sign.test(root, names.metadata) is not None for sign in kind.signs):
                return kind
    return None
