"""How diffusers and transformers name the files of a model, and which of several belong to a loader.

``diffusion_pytorch_model.fp16.safetensors``: stem, variant, kind. With shards the index carries the
variant: ``diffusion_pytorch_model.safetensors.index.fp16.json``.

Source: diffusers 0.42 ``utils/hub_utils.py`` (``_add_variant``), transformers 5 ``utils/__init__.py``.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass

MODEL_INDEX = "model_index.json"
CONFIG = "config.json"
DIFFUSERS_STEM, TRANSFORMERS_STEM = "diffusion_pytorch_model", "model"
_STEMS = (DIFFUSERS_STEM, TRANSFORMERS_STEM, "pytorch_model", "adapter_model")
_CONFIGS = frozenset({CONFIG, "adapter_config.json"})

# Parts of a pipeline as diffusers' classes call them; a folder of nothing else is a pipeline too.
_PARTS = re.compile(
    r"(unet|transformer|vae|text_encoder|tokenizer|image_encoder|controlnet|prior|decoder|vqvae|movq|"
    r"scheduler|feature_extractor|image_processor|safety_checker|(prior|decoder|low_res)_\w+)(_\d)?"
)
_WITH_WEIGHTS = frozenset({"unet", "transformer", "vae", "text_encoder", "prior", "decoder"})

_SHARD = re.compile(r"-\d{5}-of-\d{5}\b")
_SINGLE = re.compile(
    r"(?P<stem>[^.]+)(?:\.(?P<variant>\w+))?\.(?P<kind>safetensors|bin|pt|pth|ckpt)"
)
_INDEXED = re.compile(
    r"(?P<stem>[^.]+)\.(?P<kind>safetensors|bin)\.index(?:\.(?P<variant>\w+))?\.json"
)
_WEIGHTS = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".gguf",
    ".onnx",
    ".msgpack",
    ".h5",
    ".pb",
)
# Formats that others load by running a program.
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


@dataclass(frozen=True, slots=True)
class Weights:
    """One file of weights, or one index, that lies in a folder."""

    name: str
    stem: str
    variant: str  # "" for the plain one
    kind: str
    indexed: bool

    @property
    def rank(self) -> tuple[bool, bool, bool, str, bool, bool, str]:
        """Order of choice: standard name, plain, half, by name; safetensors first; one file first."""
        return (
            self.stem not in _STEMS,
            self.variant != "",
            self.variant != "fp16",
            self.variant,
            self.kind != "safetensors",
            self.indexed,
            self.name,
        )


def is_weights(name: str) -> bool:
    """Whether a file name is that of weights in any format, ours or not."""
    return name.lower().endswith(_WEIGHTS) or _INDEXED.fullmatch(name) is not None


def weights(names: Collection[str]) -> list[Weights]:
    """List what a folder offers, the best choice first; shards stand behind their index."""
    found = []
    for name in names:
        if (match := _INDEXED.fullmatch(name)) is not None:
            found.append(Weights(name, match["stem"], match["variant"] or "", match["kind"], True))
        elif (match := _SINGLE.fullmatch(name)) is not None and not _SHARD.search(name):
            found.append(Weights(name, match["stem"], match["variant"] or "", match["kind"], False))
    return sorted(found, key=lambda w: w.rank)


def main_stem(names: Collection[str]) -> str:
    """Return the stem of the weights a loader takes of these; "" if there are none."""
    offered = weights(names)
    return offered[0].stem if offered else ""


def is_pipeline(names: Collection[str]) -> bool:
    """Whether a folder with these names in it is a whole pipeline."""
    if MODEL_INDEX in names:
        return True
    parts = [name for name in names if "." not in name and not name.isupper()]  # not LICENSE
    return bool(_WITH_WEIGHTS & set(parts)) and all(map(is_part, parts))


def is_part(name: str) -> bool:
    """Whether diffusers calls a part of a pipeline like this."""
    return _PARTS.fullmatch(name) is not None


def is_component(names: Collection[str]) -> bool:
    """Whether a folder with these names in it is one model, not a place where checkpoints lie.

    With a config, weights of a standard name or of one stem; without one, nothing but weights of one
    standard stem.
    """
    offered = weights(names)
    if not offered:
        return False
    stems = {choice.stem for choice in offered}
    if _CONFIGS & set(names):
        return offered[0].stem in _STEMS or len(stems) == 1
    singles = {name for name in names if is_weights(name) and not _SHARD.search(name)}
    return len(stems) == 1 and stems <= set(_STEMS) and len(singles) == len(offered)
