"""Textual inversion files of all layouts, and what a prompt calls them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from memcard.errors import MismatchError, UnsupportedError
from memcard.formats import open_file
from memcard.generation.clip_words import clip_states
from memcard.generation.embeddings import (
    Vectors,
    asked,
    mentioned,
    read_embeddings,
    widths,
    with_embeddings,
)
from memcard.generation.engine import Pipeline
from memcard.generation.prompt import parse
from memcard.generation.words import plain

SD1 = {"text_encoder": 768}
SDXL = {"text_encoder": 768, "text_encoder_2": 1280}
ROWS = torch.randn(2, 768, generator=torch.manual_seed(1))
WIDE = torch.randn(2, 1280, generator=torch.manual_seed(2))


def read(path: Path, wanted: Mapping[str, int], name: str = "easy") -> dict[str, Vectors]:
    checkpoint = open_file(path)
    try:
        return read_embeddings(checkpoint, wanted, name)
    finally:
        checkpoint.close()


def saved(tmp_path: Path, content: Mapping[str, Tensor]) -> Path:
    path = tmp_path / "easy.safetensors"
    save_file(dict(content), path)
    return path


def pickled(tmp_path: Path, content: Mapping[str, Any]) -> Path:
    path = tmp_path / "easy.pt"
    torch.save(dict(content), path)
    return path


def a1111(param: Any) -> dict[str, Any]:
    return {
        "string_to_token": {"*": 265},
        "string_to_param": param,
        "name": "someone else's",
        "step": 100,
        "sd_checkpoint": None,
        "sd_checkpoint_name": None,
    }


@pytest.mark.parametrize("legacy", [False, True], ids=["dict", "ParameterDict"])
def test_a1111_s_pickle(tmp_path: Path, legacy: bool) -> None:
    param: Any = {"*": ROWS}
    if legacy:
        param = torch.nn.ParameterDict({"*": torch.nn.Parameter(ROWS)})

    found = read(pickled(tmp_path, a1111(param)), SD1)

    assert list(found) == ["easy"]
    assert torch.equal(found["easy"]["text_encoder"], ROWS)


@pytest.mark.parametrize("key", ["emb_params", "clip_l", "whatever"])
def test_one_encoder_in_safetensors(key: str, tmp_path: Path) -> None:
    found = read(saved(tmp_path, {key: ROWS.half()}), SD1)

    assert found["easy"]["text_encoder"].dtype == torch.float32
    assert torch.equal(found["easy"]["text_encoder"], ROWS.half().float())


def test_stable_diffusion_2_has_an_encoder_of_its_own(tmp_path: Path) -> None:
    rows = torch.ones(1, 1024)

    found = read(saved(tmp_path, {"clip_h": rows}), {"text_encoder": 1024})

    assert torch.equal(found["easy"]["text_encoder"], rows)


def test_diffusers_tokens_keep_their_names(tmp_path: Path) -> None:
    one = read(pickled(tmp_path, {"<cat-toy>": ROWS[0]}), SD1)
    two = read(saved(tmp_path, {"<s0>": ROWS[0], "<s1>": ROWS[1]}), SD1)

    assert list(one) == ["<cat-toy>", "easy"]
    assert torch.equal(one["easy"]["text_encoder"], ROWS[:1])
    assert list(two) == ["<s0>", "<s1>"]
    assert torch.equal(two["<s1>"]["text_encoder"], ROWS[1:])


@pytest.mark.parametrize("keys", [("clip_l", "clip_g"), ("text_encoders_0", "text_encoders_1")])
def test_sdxl_s_two_encoders(keys: tuple[str, str], tmp_path: Path) -> None:
    found = read(saved(tmp_path, {keys[1]: WIDE, keys[0]: ROWS}), SDXL)

    assert list(found["easy"]) == ["text_encoder", "text_encoder_2"]
    assert torch.equal(found["easy"]["text_encoder"], ROWS)
    assert torch.equal(found["easy"]["text_encoder_2"], WIDE)


def test_the_refiner_takes_the_second_half(tmp_path: Path) -> None:
    path = saved(tmp_path, {"clip_l": ROWS, "clip_g": WIDE})

    found = read(path, {"text_encoder_2": 1280})

    assert list(found["easy"]) == ["text_encoder_2"]


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ({"emb_params": ROWS}, {"text_encoder": 1024}),
        ({"emb_params": ROWS}, SDXL),
        ({"clip_g": WIDE}, SDXL),
        ({"clip_l": ROWS, "clip_g": WIDE[:1]}, SDXL),
        ({"clip_l": ROWS, "clip_g": WIDE}, SD1),
        ({"clip_l": ROWS[:0], "clip_g": WIDE[:0]}, SDXL),
        ({"emb_params": ROWS}, {}),
    ],
    ids=["width", "one for two", "half", "counts", "sdxl for sd1", "none", "no clip"],
)
def test_another_family_s_embedding_is_refused(
    content: Mapping[str, Tensor], wanted: Mapping[str, int], tmp_path: Path
) -> None:
    with pytest.raises(MismatchError, match="easy: this embedding does not fit") as caught:
        read(saved(tmp_path, content), wanted)

    for name, tensor in content.items():
        assert f"{name} {list(tensor.shape)}" in str(caught.value)
    for component, width in wanted.items():
        assert f"{component} {width} wide" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        {"a.weight": torch.ones(4, 4), "b.weight": torch.ones(4, 4)},
        {"clip_l": ROWS, "t5xxl": torch.ones(2, 4096)},
        {"count": torch.ones(3, dtype=torch.int64)},
    ],
    ids=["layers", "t5", "no floats"],
)
def test_other_files_are_refused(content: Mapping[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="not an embedding") as caught:
        read(saved(tmp_path, content), SD1)

    assert all(name in str(caught.value) for name in content)


def test_a_pipeline_is_taught_words(twin_pipeline: Pipeline, tmp_path: Path) -> None:
    assert widths(twin_pipeline) == {"text_encoder": 32}
    rows = torch.randn(2, 32, generator=torch.manual_seed(1))
    found = read(saved(tmp_path, {"emb_params": rows}), widths(twin_pipeline))

    taught = with_embeddings(twin_pipeline, found)
    again = with_embeddings(taught, {"other": {"text_encoder": rows}})

    assert "embeddings" not in twin_pipeline.extras
    assert list(again.extras["embeddings"]) == ["easy", "other"]
    with torch.inference_mode():
        mine, theirs = (
            clip_states(
                *(p.modules["text_encoder"], p.tokenizers["text_encoder"], plain("a easy cat")),
                extras=p.extras,
            )[0]
            for p in (taught, twin_pipeline)
        )
    assert torch.equal(mine[:, :2], theirs[:, :2])
    assert not torch.equal(mine[:, 2], theirs[:, 2])


def test_names_that_a_prompt_asks_for() -> None:
    prompt = parse(
        "(embedding:easy.pt:1.2), Embedding:Bad-Hands-5, [a:embedding:late:4] embedding:easy"
    )

    assert asked(prompt, 10) == ("easy", "Bad-Hands-5", "late")
    assert asked(parse("a cat, preembedding:easy"), 10) == ()


def test_names_that_a_prompt_mentions() -> None:
    names = ["easynegative", "bad-hands-5", "cat", "unused"]

    prompt = parse("(EasyNegative:1.2), bad-hands-5 [dog:<cat>:0.5] concatenate")

    assert mentioned(prompt, 10, names) == ("easynegative", "bad-hands-5", "cat")
    assert mentioned(prompt, 10, []) == ()
