"""Wan 2.1: transformer, autoencoder over space and time, UMT5-XXL with its words.

The transformers of Wan 2.2 (14B) have the same names, so their files translate by this dictionary too.

Source: Wan-Video Wan2.1, ``wan/modules/{model,vae,t5}.py``; diffusers ``transformer_wan.py``,
``single_file_utils.py``; the configs of ``Wan-AI/Wan2.1-T2V-1.3B-Diffusers``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Final

from memcard.core.tensors import Specs
from memcard.dialects import _text, _wan_vae
from memcard.dialects._configs import MODEL_INDEX, Config, _layers, _list_models, _umt5
from memcard.dialects._dialect import Component, Dialect, Facts, Parts
from memcard.dialects._link import Link, Side, same

_HEAD: Final = 128  # channels of one head, in every size; no shape tells
_SHIFT: Final = 3.0  # of the noise levels, for 480 rows
_PICTURE: Final = "condition_embedder.image_embedder"
_ENDS: Final = {
    "patch_embedding.{leaf}": "patch_embedding.{leaf}",
    "time_embedding.0.{leaf}": "condition_embedder.time_embedder.linear_1.{leaf}",
    "time_embedding.2.{leaf}": "condition_embedder.time_embedder.linear_2.{leaf}",
    "text_embedding.0.{leaf}": "condition_embedder.text_embedder.linear_1.{leaf}",
    "text_embedding.2.{leaf}": "condition_embedder.text_embedder.linear_2.{leaf}",
    "time_projection.1.{leaf}": "condition_embedder.time_proj.{leaf}",
    "head.head.{leaf}": "proj_out.{leaf}",
    "head.modulation": "scale_shift_table",
    # image to video
    "img_emb.proj.0.{leaf}": f"{_PICTURE}.norm1.{{leaf}}",
    "img_emb.proj.1.{leaf}": f"{_PICTURE}.ff.net.0.proj.{{leaf}}",
    "img_emb.proj.3.{leaf}": f"{_PICTURE}.ff.net.2.{{leaf}}",
    "img_emb.proj.4.{leaf}": f"{_PICTURE}.norm2.{{leaf}}",
    "img_emb.emb_pos": f"{_PICTURE}.pos_embed",
}
_ATTENTION: Final = {
    **{f"{part}.{{leaf}}": f"to_{part}.{{leaf}}" for part in "qkv"},
    "o.{leaf}": "to_out.0.{leaf}",
    "norm_q.weight": "norm_q.weight",
    "norm_k.weight": "norm_k.weight",
}
_IMAGE: Final = {
    "k_img.{leaf}": "add_k_proj.{leaf}",
    "v_img.{leaf}": "add_v_proj.{leaf}",
    "norm_k_img.weight": "norm_added_k.weight",
}
_BLOCK: Final = {
    "modulation": "scale_shift_table",
    "norm3.{leaf}": "norm2.{leaf}",
    "ffn.0.{leaf}": "ffn.net.0.proj.{leaf}",
    "ffn.2.{leaf}": "ffn.net.2.{leaf}",
    **{f"self_attn.{old}": f"attn1.{new}" for old, new in _ATTENTION.items()},
    **{f"cross_attn.{old}": f"attn2.{new}" for old, new in (_ATTENTION | _IMAGE).items()},
}
_LINKS: Final = (
    *(same(old, new) for old, new in _ENDS.items()),
    *(same(f"blocks.{{n}}.{old}", f"blocks.{{n}}.{new}") for old, new in _BLOCK.items()),
)
# Without these there is no config to read off; with the ranks they have.
_MARKS: Final[Mapping[Side, Mapping[str, int]]] = {
    "ldm": {
        "patch_embedding.weight": 5,
        "head.head.weight": 2,
        "time_embedding.0.weight": 2,
        "text_embedding.0.weight": 2,
        "blocks.0.ffn.0.weight": 2,
        "blocks.0.self_attn.q.weight": 2,
    },
    "diffusers": {
        "patch_embedding.weight": 5,
        "proj_out.weight": 2,
        "condition_embedder.time_embedder.linear_1.weight": 2,
        "condition_embedder.text_embedder.linear_1.weight": 2,
        "blocks.0.ffn.net.0.proj.weight": 2,
        "blocks.0.attn1.to_q.weight": 2,
    },
}
# What is added for other tasks has names of its own, which this dictionary does not know.
_STRANGE: Final = ("vace_", "face_adapter.", "casual_audio_encoder.", "audio_injector.")


def _links(specs: Specs, side: Side) -> Sequence[Link] | None:
    whole = all(n in specs and len(specs[n].shape) == r for n, r in _MARKS[side].items())
    return _LINKS if whole and not any(name.startswith(_STRANGE) for name in specs) else None


def _configs(parts: Parts, facts: Facts) -> Mapping[str, Config]:
    """Return the configs of a folder for WanPipeline."""
    del facts
    found: dict[str, Config] = {}
    pipeline = "WanPipeline"
    if "transformer" in parts:
        config = _transformer(parts["transformer"]["diffusers"])
        found["transformer/config.json"] = config
        if config["in_channels"] != config["out_channels"]:
            pipeline = "WanImageToVideoPipeline"
    if "vae" in parts:
        found["vae/config.json"] = dict(_wan_vae.config(parts["vae"]["diffusers"]))
    if "text_encoder" in parts:
        found["text_encoder/config.json"] = _umt5(parts["text_encoder"]["diffusers"])
    found["scheduler/scheduler_config.json"] = {
        "_class_name": "UniPCMultistepScheduler",
        "num_train_timesteps": 1000,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": _SHIFT,
    }
    index: Config = {"_class_name": pipeline, "boundary_ratio": None, "expand_timesteps": False}
    _list_models(index, found)
    return {MODEL_INDEX: index, **found}


def _transformer(specs: Specs) -> Config:
    width, channels, *patch = specs["patch_embedding.weight"].shape
    heads = max(1, width // _HEAD)
    time = specs["condition_embedder.time_embedder.linear_1.weight"].shape
    added = specs.get("blocks.0.attn2.add_k_proj.weight")
    seen = specs.get(f"{_PICTURE}.ff.net.0.proj.weight")
    places = specs.get(f"{_PICTURE}.pos_embed")
    return {
        "_class_name": "WanTransformer3DModel",
        "patch_size": patch,
        "num_attention_heads": heads,
        "attention_head_dim": width // heads,
        "in_channels": channels,
        "out_channels": specs["proj_out.weight"].shape[0] // prod(patch),
        "text_dim": specs["condition_embedder.text_embedder.linear_1.weight"].shape[1],
        "freq_dim": time[1],
        "ffn_dim": specs["blocks.0.ffn.net.0.proj.weight"].shape[0],
        "num_layers": _layers(specs, "blocks.{}.attn1.to_q.weight"),
        "cross_attn_norm": "blocks.0.norm2.weight" in specs,
        "qk_norm": "rms_norm_across_heads",
        "eps": 1e-06,
        "image_dim": seen.shape[1] if seen else None,
        "added_kv_proj_dim": added.shape[1] if added else None,
        "rope_max_seq_len": 1024,
        "pos_embed_seq_len": places.shape[1] if places else None,
    }


PLUGIN = Dialect(
    title="Wan 2.1",
    source="https://github.com/huggingface/diffusers (0.42, loaders/single_file_utils.py)",
    components=(
        Component(
            "transformer",
            ("model.diffusion_model.", "diffusion_model.", ""),
            ("transformer.", ""),
            _links,
        ),
        _wan_vae.component(),
        *_text.umt5("text_encoder"),
    ),
    configs=_configs,
    tokenizers={"tokenizer": "umt5"},
)
