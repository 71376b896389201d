"""The JSON files of a diffusers folder, read off shapes: what ``from_pretrained`` wants to see.

What no shape tells (heads, schedules, scales of the latents) is that of the published models.

Source: the config files of stable-diffusion-v1-5, stable-diffusion-2-1, stable-diffusion-xl-base-1.0,
stable-diffusion-3.5-large, FLUX.1-dev and FLUX.1-schnell; diffusers 0.42.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import Any, TypeAlias

from memcard.architectures import _unet, _vae
from memcard.core.tensors import Specs
from memcard.dialects._dialect import Facts, Parts

Config: TypeAlias = dict[str, Any]
Configs: TypeAlias = Callable[[Parts, Facts], Mapping[str, Config]]

MODEL_INDEX = "model_index.json"
_NOTHING: Any = [None, None]
_BETAS: Config = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
_XL, _REFINER = "StableDiffusionXL", "StableDiffusionXLImg2ImgPipeline"
# By channels of the UNet's input: latents, or latents with a mask and a picture beside them.
_PIPELINES = {
    "StableDiffusionPipeline": {9: "StableDiffusionInpaintPipeline",
                                8: "StableDiffusionInstructPix2PixPipeline"},
    "StableDiffusionXLPipeline": {9: "StableDiffusionXLInpaintPipeline"},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Numbers:
    """What the shapes of a Stable Diffusion do not tell.

    Attributes:
        pipeline: diffusers' class for text to image.
        sample: side of a picture, in pixels.
        scaling: latents are multiplied by this before the UNet sees them.
        prediction: what the UNet tells if nothing else is known.
        heads: of the UNet's attentions; 0 if ``head_width`` counts.
        head_width: channels of one head of the UNet; 0 if ``heads`` counts.
        groups, vae_groups: of the norms.
        text_head: channels of one head of the text encoders.
        activations: of each text encoder, by folder.
        schedule: replaces parts of the noise schedule.
    """

    pipeline: str
    sample: int
    scaling: float
    prediction: str = "epsilon"
    heads: int = 0
    head_width: int = 0
    groups: int = 32
    vae_groups: int = 32
    text_head: int = 64
    activations: Mapping[str, str] | None = None
    schedule: Mapping[str, Any] | None = None


def stable_diffusion(numbers: Numbers) -> Configs:
    """Return the configs of a family with a UNet."""

    def configs(parts: Parts, facts: Facts) -> Mapping[str, Config]:
        found: dict[str, Config] = {}
        index = _index(numbers.pipeline)
        prediction = facts.prediction or numbers.prediction
        if "unet" in parts:
            found["unet/config.json"] = _unet_config(parts, numbers, prediction)
            channels = found["unet/config.json"]["in_channels"]
            other = _PIPELINES.get(numbers.pipeline, {})
            index["_class_name"] = other.get(channels, numbers.pipeline)
        if "vae" in parts:
            found["vae/config.json"] = _vae_config(parts, numbers)
        for name, activation in (numbers.activations or {"text_encoder": "quick_gelu"}).items():
            if name in parts:
                specs = parts[name]["diffusers"]
                found[f"{name}/config.json"] = _clip(specs, activation, numbers.text_head)
        found["scheduler/scheduler_config.json"] = _schedule(numbers, prediction, facts)
        _list_models(index, found)
        return {MODEL_INDEX: index, **found}

    return configs


def _index(pipeline: str) -> Config:
    index: Config = {"_class_name": pipeline}
    index |= {"feature_extractor": _NOTHING, "image_encoder": _NOTHING}
    if pipeline == _REFINER:
        nothing = {"text_encoder": _NOTHING, "tokenizer": _NOTHING}
        index |= {"force_zeros_for_empty_prompt": False, "requires_aesthetics_score": True}
        return index | nothing
    if pipeline.startswith(_XL):
        return index | {"force_zeros_for_empty_prompt": True}
    return index | {"safety_checker": _NOTHING, "requires_safety_checker": False}


def _list_models(index: Config, found: Mapping[str, Config]) -> None:
    """List every part with its library and class, as diffusers finds them by."""
    for path, config in found.items():
        folder = path.partition("/")[0]
        if "_class_name" in config:
            index[folder] = ["diffusers", config["_class_name"]]
        else:
            index[folder] = ["transformers", config["architectures"][0]]


def _unet_config(parts: Parts, numbers: Numbers, prediction: str) -> Config:
    unet = _unet.outline(parts["unet"]["ldm"])
    assert unet is not None, "the dictionary was made from this outline"  # noqa: S101
    heads: int | tuple[int, ...] = numbers.heads
    if numbers.head_width:
        heads = tuple(max(1, width // numbers.head_width) for width in unet.widths)
    factor = 8
    if "vae" in parts and (vae := _vae.outline(parts["vae"]["ldm"])) is not None:
        factor = 2 ** (len(vae.widths) - 1)
    config = {
        "_class_name": "UNet2DConditionModel",
        **unet.config(heads=heads, groups=numbers.groups, sample=numbers.sample // factor),
    }
    names = parts["unet"]["diffusers"]
    if "add_embedding.linear_1.weight" in names:
        config |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 256}
        config["projection_class_embeddings_input_dim"] = unet.label_width
    elif "class_embedding.linear_1.weight" in names:
        config["class_embed_type"] = "projection"
        config["projection_class_embeddings_input_dim"] = unet.label_width
    elif "class_embedding.weight" in names:
        config["num_class_embeds"] = names["class_embedding.weight"].shape[0]
    if numbers.pipeline == "StableDiffusionPipeline" and unet.linear:
        # SD 2.1's attention overflows in float16; without v prediction it never did.
        config["upcast_attention"] = prediction == "v_prediction"
    return config


def _vae_config(parts: Parts, numbers: Numbers) -> Config:
    vae = _vae.outline(parts["vae"]["ldm"])
    assert vae is not None, "the dictionary was made from this outline"  # noqa: S101
    config = vae.config(groups=numbers.vae_groups, sample=numbers.sample, scaling=numbers.scaling)
    return {"_class_name": "AutoencoderKL", **config, "force_upcast": True}


def _schedule(numbers: Numbers, prediction: str, facts: Facts) -> Config:
    config = {**_BETAS, "prediction_type": prediction}
    # Latents go far beyond 1: a DDIM that clips them paints noise, and clipping is its class's default.
    config |= {"clip_sample": False, "set_alpha_to_one": False}
    if numbers.pipeline.startswith(_XL):
        config |= {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading"}
        config |= {"interpolation_type": "linear", "use_karras_sigmas": False}
        config |= {"skip_prk_steps": True}
    elif prediction == "v_prediction" or facts.zero_snr:
        config |= {"_class_name": "DDIMScheduler"}
    else:
        config |= {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
    if facts.zero_snr:
        config |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    return {**config, **(numbers.schedule or {})}


def _layers(specs: Specs, pattern: str) -> int:
    count = 0
    while pattern.format(count) in specs:
        count += 1
    return count


def _clip(specs: Specs, activation: str, head: int) -> Config:
    stem = "text_model."
    vocabulary, width = specs[f"{stem}embeddings.token_embedding.weight"].shape
    projected = specs.get("text_projection.weight")
    model = "CLIPTextModelWithProjection" if projected else "CLIPTextModel"
    return {
        "architectures": [model],
        "model_type": "clip_text_model",
        "attention_dropout": 0.0,
        "hidden_act": activation,
        "hidden_size": width,
        "intermediate_size": specs[f"{stem}encoder.layers.0.mlp.fc1.weight"].shape[0],
        "num_hidden_layers": _layers(specs, stem + "encoder.layers.{}.mlp.fc1.weight"),
        "num_attention_heads": max(1, width // head),
        "max_position_embeddings": specs[f"{stem}embeddings.position_embedding.weight"].shape[0],
        "vocab_size": vocabulary,
        "projection_dim": projected.shape[0] if projected else width,
        "layer_norm_eps": 1e-05,
        "bos_token_id": vocabulary - 2,
        "eos_token_id": vocabulary - 1,
        "pad_token_id": 1,
    }


def _t5(specs: Specs) -> Config:
    block = "encoder.block.0.layer"
    buckets, heads = specs[f"{block}.0.SelfAttention.relative_attention_bias.weight"].shape
    inner = specs[f"{block}.0.SelfAttention.q.weight"].shape
    tokens = "shared.weight" if "shared.weight" in specs else "encoder.embed_tokens.weight"
    gated = f"{block}.1.DenseReluDense.wi_0.weight"
    fed = gated if gated in specs else f"{block}.1.DenseReluDense.wi.weight"
    return {
        "architectures": ["T5EncoderModel"],
        "model_type": "t5",
        "d_model": inner[1],
        "d_kv": inner[0] // heads,
        "d_ff": specs[fed].shape[0],
        "num_layers": _layers(specs, "encoder.block.{}.layer.0.SelfAttention.q.weight"),
        "num_heads": heads,
        "relative_attention_num_buckets": buckets,
        "relative_attention_max_distance": 128,
        "vocab_size": specs[tokens].shape[0],
        "feed_forward_proj": "gated-gelu" if gated in specs else "relu",
        "is_encoder_decoder": True,
        "layer_norm_epsilon": 1e-06,
        "dropout_rate": 0.1,
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }


def _umt5(specs: Specs) -> Config:
    """Return the config of a UMT5 encoder: a T5 of which every layer knows distances."""
    return {**_t5(specs), "architectures": ["UMT5EncoderModel"], "model_type": "umt5"}


def sd3(parts: Parts, facts: Facts) -> Mapping[str, Config]:
    """Return the configs of Stable Diffusion 3 and 3.5."""
    found: dict[str, Config] = {}
    if "transformer" in parts:
        found["transformer/config.json"] = _sd3_transformer(parts["transformer"]["diffusers"])
    if "vae" in parts:
        found["vae/config.json"] = _flow_vae(parts, scaling=1.5305, shift=0.0609)
    for name, activation in (("text_encoder", "quick_gelu"), ("text_encoder_2", "gelu")):
        if name in parts:
            found[f"{name}/config.json"] = _clip(parts[name]["diffusers"], activation, 64)
    if "text_encoder_3" in parts:
        found["text_encoder_3/config.json"] = _t5(parts["text_encoder_3"]["diffusers"])
    found["scheduler/scheduler_config.json"] = _flow(shift=3.0)
    index: Config = {"_class_name": "StableDiffusion3Pipeline"}
    index |= {"feature_extractor": _NOTHING, "image_encoder": _NOTHING}
    index |= {"text_encoder_3": _NOTHING, "tokenizer_3": _NOTHING}
    _list_models(index, found)
    return {MODEL_INDEX: index, **found}


def _sd3_transformer(specs: Specs) -> Config:
    width, joint = specs["context_embedder.weight"].shape
    norm = specs.get("transformer_blocks.0.attn.norm_q.weight")
    head = norm.shape[0] if norm else 64
    layers = _layers(specs, "transformer_blocks.{}.attn.to_q.weight")
    patch = specs["pos_embed.proj.weight"].shape
    second = "transformer_blocks.{}.attn2.to_q.weight"
    return {
        "_class_name": "SD3Transformer2DModel",
        "sample_size": 128,
        "patch_size": patch[-1],
        "in_channels": patch[1],
        "out_channels": specs["proj_out.weight"].shape[0] // patch[-1] ** 2,
        "num_layers": layers,
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": joint,
        "caption_projection_dim": width,
        "pooled_projection_dim": specs["time_text_embed.text_embedder.linear_1.weight"].shape[1],
        "pos_embed_max_size": isqrt(specs["pos_embed.pos_embed"].shape[1]),
        "dual_attention_layers": [i for i in range(layers) if second.format(i) in specs],
        "qk_norm": "rms_norm" if norm else None,
    }


def flux(parts: Parts, facts: Facts) -> Mapping[str, Config]:
    """Return the configs of Flux.1."""
    found: dict[str, Config] = {}
    guided = True
    if "transformer" in parts:
        found["transformer/config.json"] = _flux_transformer(parts["transformer"]["diffusers"])
        guided = found["transformer/config.json"]["guidance_embeds"]
    if "vae" in parts:
        found["vae/config.json"] = _flow_vae(parts, scaling=0.3611, shift=0.1159)
    if "text_encoder" in parts:
        specs = parts["text_encoder"]["diffusers"]
        found["text_encoder/config.json"] = _clip(specs, "quick_gelu", 64)
    if "text_encoder_2" in parts:
        found["text_encoder_2/config.json"] = _t5(parts["text_encoder_2"]["diffusers"])
    # schnell, which has no guidance, was distilled for few steps without the shift by size.
    found["scheduler/scheduler_config.json"] = (
        _flow(shift=3.0, dynamic=True) if guided else _flow(shift=1.0)
    )
    index: Config = {"_class_name": "FluxPipeline"}
    index |= {"feature_extractor": _NOTHING, "image_encoder": _NOTHING}
    _list_models(index, found)
    return {MODEL_INDEX: index, **found}


def _flux_transformer(specs: Specs) -> Config:
    width, channels = specs["x_embedder.weight"].shape
    head = specs["transformer_blocks.0.attn.norm_q.weight"].shape[0]
    # Rotary axes: index, row, column. Twins for tests have narrower heads in the same proportion.
    axis = 2 * (head * 7 // 32)
    return {
        "_class_name": "FluxTransformer2DModel",
        "patch_size": 1,
        "in_channels": channels,
        "out_channels": specs["proj_out.weight"].shape[0],
        "num_layers": _layers(specs, "transformer_blocks.{}.attn.to_q.weight"),
        "num_single_layers": _layers(specs, "single_transformer_blocks.{}.attn.to_q.weight"),
        "attention_head_dim": head,
        "num_attention_heads": width // head,
        "joint_attention_dim": specs["context_embedder.weight"].shape[1],
        "pooled_projection_dim": specs["time_text_embed.text_embedder.linear_1.weight"].shape[1],
        "guidance_embeds": "time_text_embed.guidance_embedder.linear_1.weight" in specs,
        "axes_dims_rope": [head - 2 * axis, axis, axis],
    }


def _flow_vae(parts: Parts, *, scaling: float, shift: float) -> Config:
    vae = _vae.outline(parts["vae"]["ldm"])
    assert vae is not None, "the dictionary was made from this outline"  # noqa: S101
    config = vae.config(groups=32, sample=1024, scaling=scaling)
    config = {**config, "shift_factor": shift, "force_upcast": True}
    return {"_class_name": "AutoencoderKL", **config}


def _flow(*, shift: float, dynamic: bool = False) -> Config:
    config: Config = {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "shift": shift,
        "use_dynamic_shifting": dynamic,
    }
    if dynamic:
        config |= {"base_image_seq_len": 256, "max_image_seq_len": 4096}
        config |= {"base_shift": 0.5, "max_shift": 1.15}
    return config
