"""How well a picture fits its prompt, as a CLIP model of the user's own sees it.

Source: Hessel et al. 2021, "CLIPScore", arXiv:2104.08718, equation 1: 2.5 x max(cosine, 0).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from memcard.errors import FormatError, NotFoundError, UsageError
from memcard.generation._engine import quiet
from memcard.generation.scorer import Bench, Better, Need, Shot
from memcard.generation.tokenizer import tokenizer

_WEIGHT: Final = 2.5
# CLIP's own, arXiv:2103.00020; a folder's preprocessor_config.json may say others.
_MEAN: Final = (0.48145466, 0.4578275, 0.40821073)
_STD: Final = (0.26862954, 0.26130258, 0.27577711)


class ClipScore:
    """Cosine of picture and prompt in CLIP's space."""

    title = "CLIP score"
    source = "arXiv:2104.08718"
    range = (0.0, 2.5)
    unit = ""
    better: Better = "higher"
    needs: tuple[Need, ...] = ("clip",)

    def score(self, shots: Sequence[Shot], bench: Bench) -> tuple[float, ...]:
        """Return one number for each picture; of a clip, of its first frame.

        Raises:
            NotFoundError, FormatError: the folder is no CLIP model of transformers.
            UsageError: no CLIP model was named.
        """
        model, mean, std = _model(bench)
        with torch.inference_mode():
            return tuple(_cosine(model, mean, std, shot) for shot in shots)


def _model(bench: Bench) -> tuple[Any, Tensor, Tensor]:
    if bench.clip is None:
        raise UsageError(
            "the CLIP score needs a CLIP model of your own, and none was named. Name its folder "
            "(config.json and model.safetensors, as transformers saves it)."
        )
    key = ("clip", str(bench.clip))
    if key not in bench.kept:
        bench.kept[key] = _opened(bench.clip)
    found: tuple[Any, Tensor, Tensor] = bench.kept[key]
    return found


def _opened(folder: Path) -> tuple[Any, Tensor, Tensor]:
    config = folder / "config.json"
    if not config.is_file():
        raise NotFoundError(
            f"{folder}: has no config.json. A CLIP model is a folder with config.json and "
            "model.safetensors, as transformers' CLIPModel.save_pretrained writes it."
        )
    kind = _json(config).get("model_type")
    if kind != "clip":
        raise FormatError(
            f"{config}: is a model of type {kind!r}, not 'clip'. Name the folder of a whole CLIP model."
        )
    from transformers.models.clip.modeling_clip import CLIPModel

    try:
        with quiet():
            model = CLIPModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise FormatError(f"{folder}: cannot be read as a CLIP model: {error}") from error
    said = folder / "preprocessor_config.json"
    facts = _json(said) if said.is_file() else {}
    mean, std = facts.get("image_mean", _MEAN), facts.get("image_std", _STD)
    return model.eval(), torch.tensor(mean), torch.tensor(std)


def _json(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FormatError(f"{path}: is not JSON: {error}. Download the folder again.") from error
    return found if isinstance(found, dict) else {}


def _cosine(model: Any, mean: Tensor, std: Tensor, shot: Shot) -> float:
    size = model.config.vision_config.image_size
    picture = shot.pixels[:1].float().permute(0, 3, 1, 2)
    scale = size / min(picture.shape[-2:])
    sides = [max(size, round(side * scale)) for side in picture.shape[-2:]]
    picture = functional.interpolate(picture, sides, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (sides[0] - size) // 2, (sides[1] - size) // 2
    picture = picture[..., top : top + size, left : left + size]
    picture = (picture - mean[:, None, None]) / std[:, None, None]
    length = model.config.text_config.max_position_embeddings
    words = torch.tensor([tokenizer("clip").encode(shot.prompt, length)[0]])
    with quiet():  # no attention mask, as OpenAI's own: what follows the end is not looked at
        found = model(input_ids=words, pixel_values=picture)
    cosine = functional.cosine_similarity(found.image_embeds, found.text_embeds)
    return _WEIGHT * max(0.0, float(cosine))


PLUGIN = ClipScore()
