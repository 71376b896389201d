"""Prompts that name LoRAs and embeddings, pictures out of pictures, and pictures made again."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import memcard
from fixtures.small import save as save_file
from memcard.core.progress import Event, Notice, Progress
from memcard.errors import CorruptError, MismatchError, NotFoundError, UsageError
from memcard.jobs._generate_models import Models
from memcard.jobs.convert import convert
from memcard.jobs.generate import run, save
from memcard.jobs.generate_again import run_again
from memcard.jobs.resolve import locate

QUICK: dict[str, Any] = {"steps": 3, "seed": 5}


def digests(result: Any) -> list[str]:
    return [hashlib.sha256(p.image.tobytes()).hexdigest() for p in result.pictures]


def test_a_lora_in_the_prompt_is_the_lora_beside_it() -> None:
    named = run("a rocket <lora:pixel:0.7>", **QUICK)
    # the tag leaves its blank behind, which the tokenizer does not see
    beside = run("a rocket", loras=[("starter/lora_pixel", 0.7)], **QUICK)

    assert digests(named) == digests(beside)
    assert named.pictures[0].infotext.startswith("a rocket <lora:pixel:0.7>\n")
    assert named.loras[0]["in_prompt"] is True


def test_prompts_with_other_loras_are_painted_by_other_models_in_their_order() -> None:
    texts = ["a rocket <lora:pixel:1>", "a rocket", "a star <lora:pixel:1>"]
    together = run(texts, n=2, **QUICK)

    assert [p.prompt for p in together.pictures] == [text for text in texts for _ in range(2)]
    assert digests(together) == [d for text in texts for d in digests(run(text, n=2, **QUICK))]


def test_a_lora_has_a_strength_of_its_own_in_the_text_encoder() -> None:
    both, unet, text = (
        digests(run("a rocket", loras=[("starter/lora_pixel", *strengths)], **QUICK))
        for strengths in ((0.7,), (0.7, 0.0), (0.0, 0.7))
    )
    same = digests(run("a rocket", loras=[("starter/lora_pixel", 0.7, 0.7)], **QUICK))
    rules = [("^text_encoder", 0.0)]
    ruled = digests(run("a rocket", loras=[("starter/lora_pixel", 0.7)], blocks=rules, **QUICK))

    assert same == both
    assert unet == ruled
    # the starter's LoRAs leave the text encoder alone, so nothing is left of this one
    assert text == digests(run("a rocket", **QUICK))


def test_a_lora_that_nobody_has_is_refused_with_where_it_was_looked_for() -> None:
    with pytest.raises(NotFoundError, match=r"<lora:nobody:…>: no LoRA .*library.*starter"):
        run("a rocket <lora:nobody:1>", **QUICK)


def test_what_cannot_be_followed_is_said() -> None:
    told: list[Event] = []

    run("a rocket <hypernet:x:1>", progress=told.append, **QUICK)

    assert any("hypernetworks" in e.text for e in told if isinstance(e, Notice))


def test_emphasis_changes_the_picture_and_brackets_of_one_do_not() -> None:
    plain, once, strong = (
        digests(run(text, **QUICK))
        for text in ("a red rocket", "a (red:1.0) rocket", "a (red:1.6) rocket")
    )

    assert plain == once != strong


def test_an_embedding_is_named_by_its_file(tmp_path: Path) -> None:
    rows = torch.randn(2, 128, generator=torch.Generator().manual_seed(0)).numpy() / 10
    path = save_file(tmp_path / "sparkle.safetensors", {"emb_params": rows})

    plain = run("a sparkle rocket", **QUICK)
    taught = run("a sparkle rocket", embeddings=[path], **QUICK)

    assert digests(plain) != digests(taught)
    assert taught.embeddings[0]["name"] == "sparkle.safetensors"
    assert "TI hashes" in taught.pictures[0].infotext
    wide = save_file(tmp_path / "wide.safetensors", {"emb_params": np.zeros((1, 768), "f4")})
    with pytest.raises(MismatchError):
        run("a rocket", embeddings=[wide], **QUICK)
    with pytest.raises(MismatchError, match="two embeddings are called sparkle"):
        run("a rocket", embeddings=[path, path], **QUICK)


def test_a_picture_is_the_start_and_the_size(tmp_path: Path) -> None:
    Image.new("RGB", (96, 72), (200, 30, 30)).save(tmp_path / "red.png")

    made = run("a rocket", image=tmp_path / "red.png", strength=0.2, steps=10, seed=5)

    (picture,) = made.pictures
    assert picture.image.size == (96, 72)
    assert "Denoising strength: 0.2" in picture.infotext
    assert np.asarray(picture.image).reshape(-1, 3).mean(0).tolist() == pytest.approx(
        [200, 30, 30], abs=25
    )


def test_a_mask_keeps_the_rest_of_the_picture(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "p.png")
    mask = np.zeros((64, 64), np.uint8)
    mask[:32] = 255
    Image.fromarray(mask).save(tmp_path / "m.png")

    made = run("a rocket", image=tmp_path / "p.png", mask=tmp_path / "m.png", **QUICK)

    shown = np.asarray(made.pictures[0].image)
    assert (shown[32:] == values[32:]).all()
    assert (shown[:32] != values[:32]).any()


def test_a_second_pass_is_larger_and_says_so() -> None:
    told: list[Event] = []
    made = run(
        "a rocket", hires=1.5, hires_strength=0.4, hires_steps=2, progress=told.append, **QUICK
    )

    steps = [e for e in told if isinstance(e, Progress)]
    assert (steps[-1].done, steps[-1].total) == (5, 5)  # 3 and 2, as asked
    assert made.pictures[0].image.size == (96, 96)
    for said in ("Denoising strength: 0.4", "Hires upscale: 1.5", "Hires steps: 2", "Lanczos"):
        assert said in made.pictures[0].infotext


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"mask": "m.png"}, UsageError),
        ({"strength": 0.5}, UsageError),
        ({"image": "none.png"}, NotFoundError),
        ({"image": __file__}, CorruptError),
        ({"image": "none.png", "strength": 1.5}, UsageError),
        ({"hires": 0.5}, UsageError),
        ({"clip_skip": 0}, UsageError),
        ({"cfg_rescale": 2.0}, UsageError),
        ({"guidance": -1.0}, UsageError),
        ({"vae": "starter/lora_pixel"}, MismatchError),
    ],
    ids=lambda x: str(x) if isinstance(x, dict) else "",
)
def test_what_makes_no_sense_is_refused(said: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        run("a rocket", **QUICK, **said)


def test_previews_come_nearer_to_the_picture() -> None:
    seen: list[Image.Image] = []

    made = run("a rocket", seed=5, preview=seen.append)

    want = np.asarray(made.pictures[0].image.resize((64, 64)), np.float32)
    far = [np.abs(np.asarray(x.resize((64, 64)), np.float32) - want).mean() for x in seen]
    assert seen[-1].size == (256, 256)
    assert far[-1] == min(far) < 40


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_a_picture_is_made_again_from_what_it_says(suffix: str, tmp_path: Path) -> None:
    said = {"negative": "blurry", "sampler": "euler", "cfg": 4.0, "width": 72, **QUICK}
    first = run("a (red:1.2) rocket <lora:pixel:0.6>", "starter/neon", **said)
    (path,) = save(first, tmp_path / f"a{suffix}")

    again = run_again(source=path)
    other = run_again(source=path, seed=6)

    assert digests(again) == digests(first) != digests(other)
    assert again.settings == first.settings


def test_without_a_prompt_there_is_nothing_to_paint() -> None:
    with pytest.raises(UsageError, match="--from IMAGE"):
        run_again()


def test_the_preview_file_is_whole(tmp_path: Path) -> None:
    run_again("a rocket", preview=tmp_path / "now.png", steps=3, seed=1)

    with Image.open(tmp_path / "now.png") as image:
        assert image.size == (256, 256)


def test_models_are_kept_between_runs() -> None:
    models = Models()
    try:
        first = run("a rocket", models=models, **QUICK)
        second = run("a rocket", models=models, **QUICK)
    finally:
        models.close()

    assert digests(first) == digests(second) == digests(run("a rocket", **QUICK))
    assert second.load_seconds < first.load_seconds


def test_a_lora_that_is_only_packed_is_laid_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    library = memcard.Library()
    copy = tmp_path / "mine.safetensors"
    copy.write_bytes(locate("starter/lora_pixel").read_bytes())
    library.add([copy], how="move")
    library.pack()

    packed = run("a rocket <lora:mine:0.7>", **QUICK)

    assert not copy.exists()
    assert digests(packed) == digests(run("a rocket <lora:pixel:0.7>", **QUICK))


def test_a_folder_is_a_checkpoint_too(tmp_path: Path) -> None:
    convert("starter", f"{tmp_path / 'starter'}/")

    made = run("a rocket", tmp_path / "starter", **QUICK, cfg=3.0, sampler="dpmpp_2m")

    assert digests(made) == digests(run("a rocket", **QUICK, cfg=3.0, sampler="dpmpp_2m"))
    assert len(made.sha256) == 64


def test_the_public_function_takes_them_all() -> None:
    (image,) = memcard.generate("a rocket", loras=[("starter/lora_pixel", 1.0, 0.5)], **QUICK)

    assert "Lora weights" in image.info["parameters"]
