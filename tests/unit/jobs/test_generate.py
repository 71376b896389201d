"""Pictures as a user gets them: from names, files, LoRAs and VAEs, with their texts."""

import hashlib
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from sd_parsers import ParserManager

import memcard
from fixtures.sd15 import write_ckpt, write_safetensors
from memcard.core.progress import Event, Notice, Progress
from memcard.errors import MismatchError, NotFoundError, UnsupportedError, UsageError
from memcard.jobs.convert import convert
from memcard.jobs.generate import run, save

QUICK = {"steps": 3, "seed": 5}


def pixels(images: list[Image.Image]) -> list[str]:
    return [hashlib.sha256(image.tobytes()).hexdigest() for image in images]


def test_no_settings_at_all_give_the_starter_with_its_own_settings() -> None:
    result = run("a red apple", steps=2)

    assert result.checkpoint == "starter"
    assert result.pictures[0].image.size == (64, 64)
    assert result.settings.origin["cfg"] == "card"
    assert result.settings.origin["steps"] == "user"
    assert 0 <= result.pictures[0].seed < 2**32


def test_the_public_function_returns_images_that_know_how_they_were_made() -> None:
    (image,) = memcard.generate("a red apple", **QUICK)

    assert image.info["parameters"].startswith("a red apple\nSteps: 3, Sampler: DPM++ 2M")


def test_several_pictures_are_those_of_their_own_seeds() -> None:
    together = memcard.generate("a rocket", n=3, steps=3, seed=2**32 - 2)
    alone = [memcard.generate("a rocket", steps=3, seed=s)[0] for s in (2**32 - 2, 2**32 - 1, 0)]

    assert pixels(together) == pixels(alone)
    assert len(set(pixels(together))) == 3


def test_several_prompts_are_those_of_each_alone() -> None:
    together = memcard.generate(["a rocket", "a red apple"], **QUICK)

    assert pixels(together) == pixels(
        [memcard.generate(p, **QUICK)[0] for p in ("a rocket", "a red apple")]
    )


def test_nothing_asks_the_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was asked for something")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)

    assert len(memcard.generate("a red apple", **QUICK)) == 1


def test_a_lora_changes_the_picture_by_its_strength_and_never_the_base() -> None:
    lora = next(name for name in starter_names() if "/lora_" in name)
    plain = pixels(memcard.generate("a rocket", **QUICK))

    none = pixels(memcard.generate("a rocket", loras=[(lora, 0.0)], **QUICK))
    half = pixels(memcard.generate("a rocket", loras=[(lora, 0.5)], **QUICK))
    full = pixels(memcard.generate("a rocket", loras=[(lora, 1.0)], **QUICK))

    assert none == plain
    assert len({*plain, *half, *full}) == 3


def test_a_lora_on_the_fly_equals_a_lora_baked_in(tmp_path: Path) -> None:
    from memcard.jobs.lora import lora_bake

    lora = next(name for name in starter_names() if "/lora_" in name)
    baked = tmp_path / "baked.safetensors"
    lora_bake("starter", [(lora, 0.8)], baked)

    assert pixels(memcard.generate("a rocket", baked, **QUICK)) == pixels(
        memcard.generate("a rocket", loras=[(lora, 0.8)], **QUICK)
    )


def test_files_from_other_folders_are_named_without_their_folder(tmp_path: Path) -> None:
    from memcard.jobs.resolve import locate

    lora = next(name for name in starter_names() if "/lora_" in name)
    (tmp_path / "far").mkdir()
    file = tmp_path / "far" / "mine.safetensors"
    file.write_bytes(locate(lora).read_bytes())

    result = run("a rocket", loras=[(file, 0.5)], **QUICK)

    assert 'Lora hashes: "mine: ' in result.pictures[0].infotext
    assert str(tmp_path) not in json.dumps(result.facts())


def test_each_name_of_the_starter_has_its_own_look() -> None:
    looks = [n for n in starter_names() if not any(p in n for p in ("/lora_", "/vae_"))]

    found = [pixels(memcard.generate("a rocket", name, **QUICK))[0] for name in looks]

    assert len(looks) >= 4
    assert len(set(found)) == len(looks)


def test_another_vae_decodes_otherwise() -> None:
    vae = next(name for name in starter_names() if "/vae_" in name)

    assert pixels(memcard.generate("a rocket", vae=vae, **QUICK)) != pixels(
        memcard.generate("a rocket", **QUICK)
    )


def test_a_ckpt_and_its_safetensors_twin_give_the_same_picture(tmp_path: Path) -> None:
    converted = convert("starter", tmp_path / "twin.ckpt").path

    assert pixels(memcard.generate("a rocket", converted, **QUICK)) == pixels(
        memcard.generate("a rocket", **QUICK)
    )


def test_stable_diffusion_1_files_of_both_kinds_run(tmp_path: Path) -> None:
    files = [write_safetensors(tmp_path / "sd.safetensors"), write_ckpt(tmp_path / "sd.ckpt")]

    results = [run("a rocket", file, steps=2, width=64, height=64, seed=1) for file in files]

    assert [result.architecture for result in results] == ["sd1", "sd1"]
    assert len({pixels([result.pictures[0].image])[0] for result in results}) == 1


def test_the_png_is_read_by_other_tools(tmp_path: Path) -> None:
    lora = next(name for name in starter_names() if "/lora_" in name)
    result = run("a rocket, blue", loras=[(lora, 0.5)], negative="blur", sampler="Euler a", **QUICK)
    (path,) = save(result, tmp_path / "x.png")

    found = ParserManager().parse(path)

    assert found is not None
    sampler = found.samplers[0]
    assert sampler.name == "Euler a"
    assert sampler.parameters["seed"] == "5"
    assert sampler.model.hash == result.sha256[:10]
    assert [p.value for p in sampler.prompts] == ["a rocket, blue"]
    assert [p.value for p in sampler.negative_prompts] == ["blur"]
    facts = json.loads(Image.open(path).text["memcard"])
    assert facts["checkpoint"]["sha256"] == result.sha256
    assert facts["loras"][0]["strength"] == 0.5


def test_the_same_command_writes_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    line = [
        sys.executable,
        "-m",
        "memcard",
        "generate",
        "a red apple",
        "--seed",
        "3",
        "--steps",
        "3",
    ]
    subprocess.run([*line, "-o", str(tmp_path / "a.png")], check=True, capture_output=True)

    (here,) = save(run("a red apple", seed=3, steps=3), tmp_path / "b.png")

    assert (tmp_path / "a.png").read_bytes() == here.read_bytes()


def test_files_are_named_after_the_prompt_and_never_replaced(tmp_path: Path) -> None:
    result = run("A rocket, red!", **QUICK)

    names = [save(result, tmp_path)[0].name for _ in range(2)]

    assert names == ["a-rocket-red-5.png", "a-rocket-red-5-2.png"]


def test_several_pictures_in_one_name_get_numbers(tmp_path: Path) -> None:
    result = run("a rocket", n=2, steps=1, seed=1)

    assert [p.name for p in save(result, tmp_path / "x.png")] == ["x-1.png", "x-2.png"]


def test_progress_counts_every_step_and_short_runs_give_no_estimate() -> None:
    seen: list[Event] = []

    run("a rocket", n=2, progress=seen.append, **QUICK)

    steps = [e for e in seen if isinstance(e, Progress) and e.phase == "pictures"]
    assert [e.done for e in steps] == [1, 2, 3, 4, 5, 6]
    assert steps[-1].total == 6
    assert [e for e in seen if isinstance(e, Notice)] == []


def test_a_long_run_says_how_long(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Event] = []
    monkeypatch.setattr("memcard.jobs._generate_clock._LONG", 0.0)

    run("a rocket", progress=seen.append, steps=6, seed=1)

    notices = [e.text for e in seen if isinstance(e, Notice)]
    assert len(notices) == 1
    assert notices[0].startswith("This will take about")


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"width": 65}, UsageError, "Use 64 or 72"),
        ({"steps": 0}, UsageError, "at least 1"),
        ({"sampler": "dpmpp_2"}, NotFoundError, "dpmpp_2m"),
        ({"seed": -2}, UsageError, "seed -2"),
        ({"n": 0}, UsageError, "at least 1 picture"),
        ({"colour": "red"}, UsageError, "no setting colour"),
        ({"checkpoint": "starter/nonsense"}, NotFoundError, "starter/raw"),
        ({"device": "toaster"}, UsageError, "--device cpu"),
    ],
)
def test_what_cannot_be_is_refused_with_a_remedy(
    settings: dict[str, object], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        run("a rocket", **settings)  # type: ignore[arg-type]


def test_a_lora_or_a_vae_is_not_taken_for_a_checkpoint() -> None:
    lora = next(name for name in starter_names() if "/lora_" in name)
    vae = next(name for name in starter_names() if "/vae_" in name)

    with pytest.raises(UnsupportedError, match="--lora"):
        run("a rocket", lora)
    with pytest.raises(UnsupportedError, match="--vae"):
        run("a rocket", vae)
    with pytest.raises(MismatchError, match="no VAE"):
        run("a rocket", vae=lora)


def test_pictures_are_only_written_in_their_formats(tmp_path: Path) -> None:
    result = run("a rocket", **QUICK)

    with pytest.raises(UsageError, match=r"\.png"):
        save(result, tmp_path / "x.bmp")
    with pytest.raises(NotFoundError, match="no such folder"):
        save(result, tmp_path / "none" / "pictures")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_for_the_pictures_is_made(tmp_path: Path) -> None:
    (path,) = save(run("a rocket", **QUICK), tmp_path / "rockets")

    assert path == tmp_path / "rockets" / "a-rocket-5.png"
    assert path.exists()


def starter_names() -> tuple[str, ...]:
    from memcard.jobs.resolve import names

    return names()
