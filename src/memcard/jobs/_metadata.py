"""What trainers and tools wrote into a file's header, picked out for a person to read.

Sources: ModelSpec 1.0.1 (https://github.com/Stability-AI/ModelSpec); kohya-ss sd-scripts
``train_network.py`` and ``train_util.py`` for the ``ss_*`` keys.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

_MODELSPEC = "modelspec."
_TRAINER = "ss_"
_LONG = 2000  # a thumbnail or a workflow; nobody reads it in a card
_TAGS = 12
# kohya key to the word a card shows; values that say nothing ("None", "") are left out
_KOHYA: Mapping[str, str] = {
    "ss_output_name": "name",
    "ss_sd_model_name": "base",
    "ss_base_model_version": "base version",
    "ss_network_module": "network",
    "ss_network_dim": "rank",
    "ss_network_alpha": "alpha",
    "ss_steps": "steps",
    "ss_epoch": "epoch",
    "ss_num_train_images": "images",
    "ss_resolution": "resolution",
    "ss_learning_rate": "learning rate",
    "ss_unet_lr": "UNet learning rate",
    "ss_text_encoder_lr": "text encoder learning rate",
    "ss_optimizer": "optimizer",
    "ss_lr_scheduler": "schedule",
    "ss_clip_skip": "clip skip",
    "ss_noise_offset": "noise offset",
    "ss_min_snr_gamma": "min SNR gamma",
    "ss_mixed_precision": "precision",
    "ss_v2": "SD 2",
    "ss_training_comment": "comment",
}


def modelspec(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the ModelSpec entries without their prefix; pictures and the like are left out."""
    return {
        key.removeprefix(_MODELSPEC): text
        for key, text in metadata.items()
        if key.startswith(_MODELSPEC) and text and len(text) <= _LONG
    }


def training(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Return what kohya's scripts noted of a training, under readable names; {} if nothing.

    ``tags`` are the most frequent captions of the data set, ``tag: count``, over all its folders.
    """
    found: dict[str, Any] = {
        word: metadata[key]
        for key, word in _KOHYA.items()
        if metadata.get(key) and metadata[key] not in ("None", "null", "False")
    }
    if tags := _tags(metadata.get("ss_tag_frequency", "")):
        found["tags"] = tags
    return found


def shown(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the other entries, short enough to read; the rest by its size."""
    return {
        key: text if len(text) <= 200 else f"({len(text)} characters)"
        for key, text in metadata.items()
        if not key.startswith((_MODELSPEC, _TRAINER))
    }


def _tags(text: str) -> dict[str, int]:
    try:
        folders = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    counts: Counter[str] = Counter()
    for tags in folders.values() if isinstance(folders, dict) else ():
        if isinstance(tags, dict):
            counts.update({str(t).strip(): n for t, n in tags.items() if isinstance(n, int)})
    return dict(counts.most_common(_TAGS))
