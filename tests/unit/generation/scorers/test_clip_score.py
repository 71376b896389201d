import json
from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from memcard.errors import FormatError, NotFoundError, UsageError
from memcard.generation.scorer import Bench, Shot
from memcard.generation.scorers import SCORERS
from memcard.generation.tokenizer import tokenizer

PART = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
# torch begins with another seed in every process, and for one picture in four no prompt would fit at all.
PIXELS = torch.rand(1, 24, 32, 3, generator=torch.Generator().manual_seed(1))
SHOT = Shot("a cat", 1, torch.zeros(1, 4, 2, 2), PIXELS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = CLIPConfig(
        text_config={**PART, "vocab_size": 49408, "eos_token_id": 49407, "bos_token_id": 49406},
        vision_config={**PART, "image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    path = tmp_path_factory.mktemp("clip")
    CLIPModel(config).save_pretrained(path)
    return path


def test_it_is_two_and_a_half_times_the_cosine_that_transformers_finds(folder: Path) -> None:
    found = [
        SCORERS["clip_score"].score(
            [Shot(prompt, 1, SHOT.latents, SHOT.pixels)], Bench(clip=folder)
        )[0]
        for prompt in ("a cat", "a rocket", "the sea", "blue")
    ]

    assert len({round(score, 6) for score in found}) > 1
    assert all(0 <= score <= 2.5 for score in found)
    model = CLIPModel.from_pretrained(folder, local_files_only=True).eval()
    words = torch.tensor([tokenizer("clip").encode("a cat", 77)[0]])
    square = torch.full((1, 16, 16, 3), 0.25)
    mean, std = (
        torch.tensor([0.48145466, 0.4578275, 0.40821073]),
        torch.tensor([0.26862954, 0.26130258, 0.27577711]),
    )
    with torch.inference_mode():
        out = model(input_ids=words, pixel_values=((square - mean) / std).permute(0, 3, 1, 2))
    cosine = float((out.image_embeds * out.text_embeds).sum())
    score = SCORERS["clip_score"].score(
        [Shot("a cat", 1, SHOT.latents, square)], Bench(clip=folder)
    )[0]
    assert score == pytest.approx(2.5 * max(cosine, 0), abs=1e-5)


def test_without_a_clip_it_asks_for_one() -> None:
    with pytest.raises(UsageError, match="CLIP model of your own"):
        SCORERS["clip_score"].score([SHOT], Bench())


def test_a_folder_that_is_no_clip_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"no config\.json"):
        SCORERS["clip_score"].score([SHOT], Bench(clip=tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(FormatError, match="'t5', not 'clip'"):
        SCORERS["clip_score"].score([SHOT], Bench(clip=tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(FormatError, match="cannot be read as a CLIP model"):
        SCORERS["clip_score"].score([SHOT], Bench(clip=tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(FormatError, match="not JSON"):
        SCORERS["clip_score"].score([SHOT], Bench(clip=tmp_path))
