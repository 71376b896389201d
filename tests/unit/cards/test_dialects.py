"""Each dialect reads what its tool writes, keeps what it has no field for, and makes nothing up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fixtures import sidecars
from fixtures.sidecars import SHA, Beside, write
from memcard.cards import CARDS, Subject
from memcard.core.card import Card


def read(dialect: str, subject: Subject) -> Card:
    found = CARDS[dialect].read(subject)
    assert found is not None
    return found


def test_a1111_json(beside: Beside) -> None:
    card = read("a1111_sidecar", beside({".json": sidecars.A1111}))

    assert (card.description, card.base_model) == ("A brush.", "SDXL")
    assert card.trigger_words == ("oil style", "thick paint")
    assert card.settings == {"strength": 0.8, "negative": "blurry"}
    assert card.remarks == "works best at night"
    assert card.origin.pop("base_model") == "a1111_sidecar (guess)"  # type: ignore[attr-defined]
    assert set(card.origin.values()) == {"a1111_sidecar"}
    assert card.extra == {}


def test_a1111_leaves_out_what_its_page_writes_for_nothing(beside: Beside) -> None:
    said = {"description": "", "sd version": "Unknown", "preferred weight": 0, "vae": "None"}

    assert CARDS["a1111_sidecar"].read(beside({".json": said})) is None


def test_a_json_file_of_somebody_else_is_not_taken_for_a1111s(beside: Beside) -> None:
    said = {"model_type": "clip", "title": "?"}

    assert CARDS["a1111_sidecar"].read(beside({".json": said})) is None


def test_a1111_text_previews_and_vae(beside: Beside) -> None:
    files = {
        ".txt": "From the text.",
        ".preview.PNG": b"",
        ".png": b"",
        ".vae.pt": b"",
        ".yaml": "",
    }

    card = read("a1111_sidecar", beside(files))

    assert card.description == "From the text."
    assert card.previews == ("x.preview.PNG", "x.png")
    assert card.settings == {"vae": "x.vae.pt"}


def test_a1111_a_broken_json_does_not_hide_the_preview(beside: Beside) -> None:
    card = read("a1111_sidecar", beside({".json": "{", ".preview.jpg": b"", ".txt": b"\xff\xfe"}))

    assert card.previews == ("x.preview.jpg",)
    assert [note.partition(":")[0] for note in card.notes] == ["x.json", "x.txt"]


def test_civitai_info(beside: Beside) -> None:
    card = read("civitai_info", beside({".civitai.info": sidecars.CIVITAI}))

    assert (card.title, card.version, card.kind) == ("Oil Brush", "v2.0", "LORA")
    assert card.author == "painter"
    assert card.description == "Paints in oil & more.\n\n- one\n- two"
    assert card.trigger_words == ("oil style", "thick paint")
    assert card.hashes == {
        "sha256": SHA.lower(),
        "autov2": "1f1f1f1f1f",
    }  # of x, not of the main file
    assert card.links == {"civitai": "https://civitai.com/models/111?modelVersionId=222"}
    assert card.permissions == {
        "allowNoCredit": True,
        "allowCommercialUse": ("Image", "RentCivit"),
        "allowDerivatives": True,
        "allowDifferentLicense": False,
    }
    assert len(card.previews) == 3
    extra = card.extra["civitai_info"]
    assert extra["stats"] == {"downloadCount": 9}
    assert extra["model"]["description"].startswith("<p>Paints in <b>")


def test_civitai_settings_of_the_pictures_are_a_guess_if_two_agree(beside: Beside) -> None:
    card = read("civitai_info", beside({".civitai.info": sidecars.CIVITAI}))

    assert card.settings == {"cfg": 6}
    assert card.origin["settings.cfg"] == "civitai_info (guess)"


def test_civitai_flags_that_are_missing_stay_unknown(beside: Beside) -> None:
    said = {**sidecars.CIVITAI, "model": {"name": "x"}}

    assert read("civitai_info", beside({".civitai.info": said})).permissions == {}


def test_civitai_the_one_word_of_old_files_is_a_list_too(beside: Beside) -> None:
    said = {"modelId": 1, "allowCommercialUse": "Sell"}

    card = read("civitai_info", beside({".civitai.info": said}))

    assert card.permissions == {"allowCommercialUse": ("Sell",)}


def test_civitai_a_whole_model_gives_the_version_of_this_file(beside: Beside) -> None:
    model = {
        "id": 111,
        "name": "Oil Brush",
        "allowDerivatives": False,
        "modelVersions": [
            {"id": 9, "name": "old", "files": [{"name": "old.safetensors"}]},
            {"id": 10, "name": "new", "files": [{"name": "x.safetensors"}]},
        ],
    }

    card = read("civitai_info", beside({".civitai.info": model}))

    assert (card.title, card.version) == ("Oil Brush", "new")
    assert card.permissions == {"allowDerivatives": False}
    assert card.links["civitai"].endswith("models/111?modelVersionId=10")


def test_civitai_an_unknown_version_is_not_guessed(beside: Beside) -> None:
    model = {"id": 1, "name": "m", "modelVersions": [{"name": "a"}, {"name": "b"}]}

    assert read("civitai_info", beside({".civitai.info": model})).version is None


def test_stability_matrix(beside: Beside) -> None:
    card = read("stability_matrix", beside({".cm-info.json": sidecars.STABILITY_MATRIX}))

    assert card.title == "My brush"
    assert card.settings == {
        "cfg": 5.5,
        "steps": 28,
        "sampler": "dpmpp_2m",
        "scheduler": "karras",
        "size": "832x1216",
    }
    assert card.hashes == {"sha256": SHA.lower(), "crc32": "0a0b0c0d", "blake3": "2e" * 32}
    assert card.previews == ()  # a path of another machine
    assert "someone" not in card.to_json()
    assert card.extra["stability_matrix"]["ModelName"] == "Oil Brush"


def test_stability_matrix_defaults_that_are_not_set_are_left_out(beside: Beside) -> None:
    said = {"ModelId": 0, "InferenceDefaults": {"Steps": 0, "CfgScale": 0, "Width": 0, "Height": 0}}

    assert CARDS["stability_matrix"].read(beside({".cm-info.json": said})) == Card(
        extra={"stability_matrix": {"ModelId": 0}}
    )


def test_civicomfys_sidecar_has_the_same_names(beside: Beside) -> None:
    card = read("stability_matrix", beside({".cminfo.json": {"ModelName": "Oil", "ModelId": 5}}))

    assert (card.title, card.links["civitai"]) == ("Oil", "https://civitai.com/models/5")


def test_lora_manager(beside: Beside) -> None:
    card = read("lora_manager", beside({".metadata.json": sidecars.LORA_MANAGER, ".webp": b""}))

    assert (card.title, card.remarks, card.base_model) == ("Oil Brush", "mine", "SDXL 1.0")
    assert card.settings == {"strength": 0.7, "strength_min": 0.5, "strength_max": 1.1}
    assert card.trigger_words == ("my own word",)
    assert card.previews == ("x.webp",)
    assert card.extra["lora_manager"]["usage_tips"] == {"clip_strength": 1}
    assert card.extra["lora_manager"]["favorite"] is True
    assert "/home/someone" not in card.to_json()


def test_lora_manager_does_not_take_any_metadata_json(beside: Beside) -> None:
    assert CARDS["lora_manager"].read(beside({".metadata.json": {"sha256": SHA}})) is None


def test_swarm(beside: Beside) -> None:
    card = read("swarm", beside({".swarm.json": sidecars.SWARM}))

    assert (card.title, card.author, card.license) == ("Oil", "painter", "CC-BY-4.0")
    assert card.tags == ("style", "oil")
    assert card.purpose == "Use at 0.8."
    assert card.previews == ("x.swarm.json#modelspec.thumbnail",)
    assert card.settings == {"size": "1024x1024", "prediction_type": "epsilon"}
    assert card.extra == {"swarm": {"hartsy.note": "kept"}}


def test_modelspec_in_the_header(beside: Beside) -> None:
    card = read("modelspec", beside(None, **sidecars.MODELSPEC, other="?"))

    assert card.hashes == {"tensors_sha256": SHA.lower()}
    assert card.settings == {"clip_skip": 2, "prediction_type": "v_prediction"}
    assert card.merged_from == ("a", "b")
    assert card.previews == ("x.safetensors#modelspec.thumbnail",)
    assert card.extra == {"modelspec": {"architecture": "stable-diffusion-xl-v1-base/lora"}}


def test_kohya_says_what_it_guesses(beside: Beside) -> None:
    card = read("kohya", beside(None, **sidecars.KOHYA))

    assert (card.title, card.base_model) == ("oil_v2", "sd_xl_base_1.0.safetensors")
    assert card.settings == {"size": "1024x1024"}
    assert card.hashes == {"tensors_sha256": SHA.lower(), "autov1": "1f1f1f1f"}
    assert card.trigger_words == (
        "oilstyle",
    )  # in all captions; 1girl is too, but is nobody's trigger
    assert card.tags == ("oilstyle", "1girl", "tree", "sky")
    assert card.origin["trigger_words"] == card.origin["tags"] == "kohya (guess)"
    assert (card.origin["title"], card.origin["base_model"]) == ("kohya (guess)", "kohya")


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        ({"10_sks dog": {"dog": 5}}, ("sks dog", "dog")),
        ({"set": {"a": 3, "b": 3}}, ()),  # three pictures share everything by chance
        ({"set": {"a": 9, "b": 10, "c": 2}}, ("b", "a")),
        ({"5_images": {"a": 10, "b": 8}}, ("a",)),
    ],
)
def test_kohya_trigger_words(beside: Beside, folders: Any, words: tuple[str, ...]) -> None:
    card = read("kohya", beside(None, ss_tag_frequency=json.dumps(folders)))

    assert card.trigger_words == words


def test_a_hash_of_nothing_is_not_believed(beside: Beside) -> None:
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

    card = read("kohya", beside(None, sshs_model_hash=empty))

    assert card.hashes == {}
    assert len(card.notes) == 1
    assert card.notes[0].startswith("kohya: sshs_model_hash is the hash of an empty file")


def test_hugging_face_readme(beside: Beside, tmp_path: Path) -> None:
    write(tmp_path / "README.md", sidecars.README)

    card = read("huggingface_card", beside())

    assert card.license == "flux-1-dev-non-commercial-license"
    assert card.links == {"license": "https://example.org/LICENSE.md"}
    assert card.base_model == "black-forest-labs/FLUX.1-dev"
    assert (card.title, card.tags) == ("Oil for Flux", ("text-to-image", "lora"))
    assert card.trigger_words == ("oil style",)
    assert card.extra["huggingface_card"]["base_model_relation"] == "adapter"


def test_hugging_face_readme_in_a_diffusers_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    write(folder / "README.md", "---\r\nlicense: mit\r\n---\r\nprose")

    assert read("huggingface_card", Subject(folder)).license == "mit"


@pytest.mark.parametrize("text", ["# Just prose", "", "---\nlicense: mit\n", "--- \nx"])
def test_hugging_face_prose_alone_says_nothing(beside: Beside, tmp_path: Path, text: str) -> None:
    write(tmp_path / "README.md", text)

    assert CARDS["huggingface_card"].read(beside()) is None


@pytest.mark.parametrize(
    "front",
    [
        "a: &x [1]\nb: *x",
        "[" * 60 + "]" * 60,
        "- a\n- b",
        "a: [",
        "? {a: b}\n: c",
        "x: " + "y" * 70_000,
    ],
)
def test_hugging_face_hostile_front_matter_is_refused(
    beside: Beside, tmp_path: Path, front: str
) -> None:
    write(tmp_path / "README.md", f"---\n{front}\n---\n")

    with pytest.raises(ValueError, match=r"^README\.md: its front matter"):
        CARDS["huggingface_card"].read(beside())


def test_memcards_own_metadata(beside: Beside) -> None:
    said = {"title": "m", "license": "unknown", "settings": {"cfg": 3, "odd": 1}, "parents": ["ab"]}
    said |= {"origin": {"title": "memcard_sidecar"}}

    card = read("memcard_metadata", beside(None, **{"memcard.card": json.dumps(said)}))

    assert (card.title, card.license, card.settings) == ("m", None, {"cfg": 3})
    assert card.extra == {"memcard_metadata": {"parents": ["ab"]}}
    assert set(card.origin.values()) == {"memcard_metadata"}  # a file cannot speak for the user
    assert card.notes == ("memcard.card: settings.odd is no field of a card. It is left out.",)


def test_memcards_sidecar_is_a_card(beside: Beside) -> None:
    said = {"title": "mine", "tags": ["a"], "limits": "x"}

    card = read("memcard_sidecar", beside({".memcard.json": said}))

    assert (card.title, card.tags) == ("mine", ("a",))
    assert card.extra == {"memcard": {"limits": "x"}}
