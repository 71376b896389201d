"""LTX-Video 0.9: transformer, autoencoder over space and time, T5-XXL.

Source: Lightricks LTX-Video, ``transformer3d.py``; diffusers ``single_file_utils.py``,
``transformer_ltx.py``, and the configs of ``LTX-Video`` and ``LTX-Video-0.9.7-dev``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from memcard.core.tensors import Specs
from memcard.dialects import _ltx_vae, _text
from memcard.dialects._configs import MODEL_INDEX, Config, _list_models, _t5
from memcard.dialects._dialect import Component, Dialect, Facts, Parts
from memcard.dialects._link import Link, Side, same

_HEADS = 32  # of 2B and of 13B; no shape tells
_ENDS = {
    "patchify_proj.{leaf}": "proj_in.{leaf}",
    "adaln_single.{rest}": "time_embed.{rest}",
    "caption_projection.{rest}": "caption_projection.{rest}",
    "proj_out.{leaf}": "proj_out.{leaf}",
    "scale_shift_table": "scale_shift_table",
}
_BLOCK = {
    "scale_shift_table": "scale_shift_table",
    **{f"ff.{part}.{{leaf}}": f"ff.{part}.{{leaf}}" for part in ("net.0.proj", "net.2")},
    **{
        f"attn{n}.{part}.{{leaf}}": f"attn{n}.{part}.{{leaf}}"
        for n in (1, 2)
        for part in ("to_q", "to_k", "to_v", "to_out.0")
    },
    **{
        f"attn{n}.{part}_norm.weight": f"attn{n}.norm_{part}.weight"
        for n in (1, 2)
        for part in "qk"
    },
}
_LINKS = (
    *(same(old, new) for old, new in _ENDS.items()),
    *(
        same(f"transformer_blocks.{{n}}.{old}", f"transformer_blocks.{{n}}.{new}")
        for old, new in _BLOCK.items()
    ),
)  # fmt: skip


# Without these there is no config to read off.
_BOTH = (
    "caption_projection.linear_1.weight",
    "proj_out.weight",
    "transformer_blocks.0.attn2.to_k.weight",
)
_MARKS: Mapping[Side, tuple[str, ...]] = {
    "ldm": ("patchify_proj.weight", "adaln_single.linear.weight", *_BOTH),
    "diffusers": ("proj_in.weight", "time_embed.linear.weight", *_BOTH),
}
_RANK = 2


def _links(specs: Specs, side: Side) -> Sequence[Link] | None:
    sound = any(name.startswith(("audio_", "transformer_blocks.0.audio_")) for name in specs)
    whole = all(mark in specs and len(specs[mark].shape) == _RANK for mark in _MARKS[side])
    return _LINKS if whole and not sound else None


def _configs(parts: Parts, facts: Facts) -> Mapping[str, Config]:
    """Return the configs of a folder for LTXPipeline."""
    del facts
    found: dict[str, Config] = {}
    if "transformer" in parts:
        found["transformer/config.json"] = _transformer(parts["transformer"]["diffusers"])
    if "vae" in parts:
        found["vae/config.json"] = dict(_ltx_vae.config(parts["vae"]["diffusers"]))
    if "text_encoder" in parts:
        found["text_encoder/config.json"] = _t5(parts["text_encoder"]["diffusers"])
    found["scheduler/scheduler_config.json"] = {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "num_train_timesteps": 1000,
        "shift": 1.0,
        "use_dynamic_shifting": True,
        "base_image_seq_len": 1024,
        "max_image_seq_len": 4096,
        "base_shift": 0.95,
        "max_shift": 2.05,
        "shift_terminal": 0.1,
    }
    index: Config = {"_class_name": "LTXPipeline"}
    _list_models(index, found)
    return {MODEL_INDEX: index, **found}


def _transformer(specs: Specs) -> Config:
    width, channels = specs["proj_in.weight"].shape
    layers = 0
    while f"transformer_blocks.{layers}.attn1.to_q.weight" in specs:
        layers += 1
    return {
        "_class_name": "LTXVideoTransformer3DModel",
        "in_channels": channels,
        "out_channels": specs["proj_out.weight"].shape[0],
        "patch_size": 1,
        "patch_size_t": 1,
        "num_attention_heads": _HEADS,
        "attention_head_dim": width // _HEADS,
        "cross_attention_dim": specs["transformer_blocks.0.attn2.to_k.weight"].shape[1],
        "num_layers": layers,
        "activation_fn": "gelu-approximate",
        "qk_norm": "rms_norm_across_heads",
        "norm_elementwise_affine": False,
        "norm_eps": 1e-6,
        "caption_channels": specs["caption_projection.linear_1.weight"].shape[1],
        "attention_bias": "transformer_blocks.0.attn1.to_q.bias" in specs,
        "attention_out_bias": "transformer_blocks.0.attn1.to_out.0.bias" in specs,
    }


PLUGIN = Dialect(
    title="LTX-Video",
    source="https://github.com/huggingface/diffusers (0.42, loaders/single_file_utils.py)",
    components=(
        Component(
            "transformer",
            ("model.diffusion_model.", "diffusion_model.", ""),
            ("transformer.", ""),
            _links,
        ),
        _ltx_vae.component(),
        _text.t5("text_encoder", ("text_encoders.t5xxl.transformer.", "")),
    ),
    configs=_configs,
    tokenizers={"tokenizer": "t5"},
)
