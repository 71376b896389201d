"""From a picture back to what makes it again: files are found by hash, then by name, and misses are told."""

import hashlib
import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest

from fixtures import foreign_images as foreign
from fixtures.foreign_images import png, write
from memcard.core.progress import Event, Progress
from memcard.errors import NotFoundError
from memcard.generation.image_info import ImageInfo, Used, UsedLora
from memcard.jobs.digests import digests
from memcard.jobs.image_info import OURS, SAME, read_image, read_images, request_of
from memcard.jobs.library import Library
from memcard.jobs.resolve import starter_folder

BASE, LORA = "base.safetensors", "lora_pixel.safetensors"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    """A library with the starter's raw weights and a LoRA, under names of their own."""
    folder = tmp_path_factory.mktemp("library")
    library = Library(folder / "home")
    for name, called in (("raw.safetensors", "lively"), (LORA, "film")):
        shutil.copy(starter_folder() / name, folder / f"{called}.safetensors")
        library.add([folder / f"{called}.safetensors"])
    return library


@pytest.fixture(scope="module")
def lora_digests() -> dict[str, str]:
    return digests(starter_folder() / LORA)[LORA]


def sha256(name: str) -> str:
    return hashlib.sha256((starter_folder() / name).read_bytes()).hexdigest()


def info(**fields: Any) -> ImageInfo:
    return ImageInfo(**{"tool": "A1111", "prompt": "a cat", "checkpoint": Used("lively"), **fields})


def test_a_picture_of_another_tool_is_read(tmp_path: Path) -> None:
    found = read_image(write(tmp_path / "a.png", png({"parameters": foreign.A1111})))

    assert (found.tool, found.seed) == ("A1111", 965400086)


def test_the_checkpoint_is_found_by_its_hash_whatever_its_name(library: Library) -> None:
    used = Used("renamed", (sha256("raw.safetensors")[:10],))

    request = request_of(info(checkpoint=used), library)

    assert request.checked()["checkpoint"] == "lively"
    assert "by its hash" in request.found[0]


def test_the_checkpoint_is_found_by_its_name_if_it_has_no_hash(library: Library) -> None:
    request = request_of(info(checkpoint=Used("SDXL\\Lively.safetensors")), library)

    assert request.arguments["checkpoint"] == "lively"
    assert request.found == ("The checkpoint 'SDXL\\\\Lively.safetensors' is lively by its name.",)


def test_a_name_with_another_hash_is_taken_and_told(library: Library) -> None:
    request = request_of(info(checkpoint=Used("lively", ("0123456789",))), library)

    assert request.arguments["checkpoint"] == "lively"
    assert "its hash is another" in request.found[0]


def test_a_lora_is_no_checkpoint_even_if_it_has_its_name(library: Library) -> None:
    request = request_of(info(checkpoint=Used("film")), library)

    assert "checkpoint" not in request.arguments
    assert "The checkpoint 'film' is not at hand. Add it to the library" in request.missing[0]


def test_everything_that_is_missing_is_named_at_once(library: Library) -> None:
    request = request_of(
        info(checkpoint=Used("no", ("ab" * 5,)), vae=Used("vee"), loras=(UsedLora("ell"),)), library
    )

    assert len(request.missing) == 3
    with pytest.raises(
        NotFoundError, match=r"'no' \(hash ababababab\).*'vee'.*--vae.*'ell'.*--lora"
    ):
        request.checked()


def test_what_is_given_anyway_is_not_looked_for(library: Library) -> None:
    request = request_of(
        info(checkpoint=None, vae=Used("vee")), library, given=("checkpoint", "vae", "seed")
    )

    assert request.missing == ()
    assert set(request.arguments) == {"prompt"}


def test_a_lora_of_the_prompt_keeps_its_tag_under_the_name_it_has_here(
    library: Library, lora_digests: dict[str, str]
) -> None:
    lora = UsedLora("pixel_v3", 0.8, 0.5, (lora_digests["autov3"],), in_prompt=True)

    request = request_of(info(prompt="a <lora:pixel_v3:0.5:0.8> cat", loras=(lora,)), library)

    assert request.arguments["prompt"] == "a <lora:film:0.5:0.8> cat"
    assert "loras" not in request.arguments


def test_a_tag_that_is_right_stays_letter_for_letter(library: Library) -> None:
    lora = UsedLora("FILM", 1.0, in_prompt=True)

    request = request_of(info(prompt="a <lora: FILM > cat", loras=(lora,)), library)

    assert request.arguments["prompt"] == "a <lora:FILM> cat"
    assert request.missing == ()


@pytest.mark.parametrize("name", ["sha256", "autov2", "autov3", "tensors_sha256", "blake3"])
def test_every_kind_of_hash_finds_a_lora(
    library: Library, lora_digests: dict[str, str], name: str
) -> None:
    lora = UsedLora("x", -0.5, 0.25, (lora_digests[name],))

    request = request_of(info(loras=(lora,)), library)

    assert request.arguments["loras"] == [("film", -0.5, 0.25)]


def test_the_starter_is_found_by_name_and_by_hash(library: Library) -> None:
    named = request_of(info(checkpoint=Used("starter")), library)
    hashed = request_of(info(checkpoint=Used("mine", (sha256(BASE)[:10],))), library)

    assert named.arguments["checkpoint"] == hashed.arguments["checkpoint"] == "starter"


def test_a_file_beside_the_picture_is_taken_if_it_has_the_hash(
    library: Library, tmp_path: Path
) -> None:
    path = tmp_path / "neon.safetensors"
    shutil.copy(starter_folder() / "lora_blueprint.safetensors", path)
    right, wrong = sha256("lora_blueprint.safetensors")[:10], "ab" * 5

    found = request_of(info(checkpoint=Used("neon", (right,))), library, folder=tmp_path, given=())
    other = request_of(info(checkpoint=Used("neon", (wrong,))), library, folder=tmp_path)
    named = request_of(info(checkpoint=Used("a/../neon.safetensors")), library, folder=tmp_path)

    # the starter has the same bytes, and is asked first
    assert found.arguments["checkpoint"] == "starter/lora_blueprint"
    assert other.missing
    assert named.arguments["checkpoint"] == str(path)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "..", "/etc/passwd", "a\0b", "x" * 300, "~/a"]
)
def test_a_name_of_a_stranger_leads_nowhere_else(
    library: Library, tmp_path: Path, name: str
) -> None:
    request = request_of(info(checkpoint=Used(name)), library, folder=tmp_path)

    assert "checkpoint" not in request.arguments


def test_settings_are_passed_on_by_their_names(library: Library) -> None:
    said = {
        "sampler": "euler_a",
        "schedule": "normal",
        "steps": 20,
        "cfg": 5.5,
        "clip_skip": 2,
        "width": 512,
        "height": 640,
        "guidance": 3.5,
        "rng": "GPU",
    }

    request = request_of(info(settings=said, negative="blur", seed=7), library)

    del said["rng"]
    assert request.arguments == {
        **said,
        "prompt": "a cat",
        "negative": "blur",
        "checkpoint": "lively",
        "seed": 7,
    }
    assert "not the same pixels" in request.notes[0]


def test_what_cannot_be_repeated_is_told(library: Library) -> None:
    said = {"sampler": "Restart", "schedule": "Turbo", "denoise": 0.5}

    request = request_of(info(settings=said, seed=2**32 + 5), library)

    assert request.arguments["seed"] == 5
    assert {"sampler", "schedule"} & set(request.arguments) == set()
    assert [
        word in " ".join(request.notes) for word in ("'Restart'", "'Turbo'", "32 bits", "0.5")
    ] == [True] * 4


def test_every_setting_of_ours_is_passed_on() -> None:
    from memcard.generation.settings import NAMES

    elsewhere = {"sampler", "schedule", "negative", "clip_skip"}

    assert {*SAME, *OURS, *elsewhere} == set(NAMES)


def test_a_second_pass_is_repeated(library: Library) -> None:
    said = {"hires_scale": 1.5, "hires_steps": 10, "denoise": 0.4, "hires_upscaler": "R-ESRGAN 4x+"}

    request = request_of(info(settings=said), library)
    far = request_of(info(settings={"hires_scale": 9.0}), library)

    hires = {key: value for key, value in request.arguments.items() if key.startswith("hires")}
    assert hires == {
        "hires": 1.5,
        "hires_steps": 10,
        "hires_strength": 0.4,
        "hires_upscaler": "lanczos",
    }
    assert any("'R-ESRGAN 4x+'" in note for note in request.notes)
    assert "hires" not in far.arguments


def test_the_strength_of_a_painted_over_picture_waits_for_that_picture(library: Library) -> None:
    alone = request_of(info(settings={"denoise": 0.4}), library)
    given = request_of(info(settings={"denoise": 0.4}), library, given=("image",))

    assert "strength" not in alone.arguments
    assert "--image" in alone.notes[0]
    assert given.arguments["strength"] == 0.4


def test_an_embedding_that_has_another_name_here_is_told(
    library: Library, lora_digests: dict[str, str]
) -> None:
    used = Used("easynegative", (lora_digests["sha256"][:12],))

    request = request_of(info(embeddings=(used,)), library)

    assert request.arguments["embeddings"] == ["film"]
    assert "'easynegative' that is 'film' here" in request.notes[0]


def test_a_schedule_that_the_sampler_does_not_have_is_left_to_it(library: Library) -> None:
    from memcard.generation.samplers import SAMPLERS

    lacking = next(
        (name, "karras") for name in SAMPLERS if "karras" not in SAMPLERS[name].schedules
    )

    request = request_of(
        info(settings=dict(zip(("sampler", "schedule"), lacking, strict=True))), library
    )

    assert request.arguments["sampler"] == lacking[0]
    assert "schedule" not in request.arguments
    assert "has no schedule 'karras'" in request.notes[0]


def test_clip_skip_is_turned_to_the_familys_own_count(library: Library) -> None:
    request = request_of(
        info(settings={"clip_skip": 2}, architecture="sdxl"), library, given=("checkpoint",)
    )

    assert request.arguments["clip_skip"] == 1


def test_a_picture_that_says_nothing_asks_for_all(library: Library) -> None:
    request = request_of(ImageInfo("unknown"), library)

    assert "names no checkpoint" in request.missing[0]
    assert "does not say how it was made" in request.notes[0]


def test_a_library_that_is_not_there_is_none(tmp_path: Path) -> None:
    request = request_of(info(), Library(tmp_path / "none"))

    assert len(request.missing) == 1
    assert not (tmp_path / "none").exists()


def test_all_pictures_below_a_folder_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket.socket, "connect", lambda *a: pytest.fail("asked the network"))
    (tmp_path / "deep" / ".hidden").mkdir(parents=True)
    good = png({"parameters": foreign.A1111})
    write(tmp_path / "deep" / "A.PNG", good)
    write(tmp_path / "deep" / ".hidden" / "b.png", good)
    write(tmp_path / "broken.jpg", b"\xff\xd8\xff")
    write(tmp_path / "c.txt", b"")
    heard: list[Event] = []

    found = dict(read_images(tmp_path, progress=heard.append))

    assert list(found) == [tmp_path / "broken.jpg", tmp_path / "deep" / "A.PNG"]
    broken, good_one = found.values()
    assert isinstance(broken, str)
    assert "broken.jpg" in broken
    assert isinstance(good_one, ImageInfo)
    assert heard[-1] == Progress("pictures", 2, 2, "files")


def test_a_folder_without_pictures_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no picture below it"):
        list(read_images(tmp_path))
    with pytest.raises(NotFoundError, match="no such folder"):
        list(read_images(tmp_path / "none"))


def test_a_request_is_plain_values(library: Library) -> None:
    json.dumps(request_of(info(loras=(UsedLora("film"),)), library).checked())
