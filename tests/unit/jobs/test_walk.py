import os
from pathlib import Path

import pytest

from memcard.jobs._walk import below, with_loose


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in below([folder])]


def test_checkpoints_are_found_by_name_at_any_depth(tmp_path: Path) -> None:
    touch(tmp_path, "b.CKPT", "a/x.safetensors", "a/notes.txt", "a/preview.png", "c/d/e.gguf")

    assert names(tmp_path) == ["a/x.safetensors", "b.CKPT", "c/d/e.gguf"]


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, ".cache/x.safetensors", ".x.safetensors", "y.safetensors")

    assert names(tmp_path) == ["y.safetensors"]


def test_shards_are_one_checkpoint_under_their_index(tmp_path: Path) -> None:
    touch(tmp_path, "m.safetensors.index.json", "m-00001-of-00002.safetensors", "other.safetensors")
    touch(tmp_path, "m-00002-of-00002.safetensors", "lost-00001-of-00002.safetensors")

    assert names(tmp_path) == [
        "lost-00001-of-00002.safetensors",
        "m.safetensors.index.json",
        "other.safetensors",
    ]


def test_a_diffusers_folder_is_one_checkpoint_and_configs_alone_are_none(tmp_path: Path) -> None:
    touch(tmp_path, "sd/model_index.json", "sd/unet/diffusion_pytorch_model.safetensors")
    touch(tmp_path, "configs/model_index.json", "configs/unet/config.json")

    assert names(tmp_path) == ["sd"]


def test_a_link_that_leads_back_ends_the_walk(tmp_path: Path) -> None:
    touch(tmp_path, "a/x.safetensors")
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "twice").symlink_to(tmp_path / "a", target_is_directory=True)

    assert names(tmp_path) == ["a/x.safetensors"]


@pytest.mark.parametrize("name", ["odd.name", "page.html"])
def test_a_file_that_is_named_is_looked_at_whatever_its_name(name: str, tmp_path: Path) -> None:
    touch(tmp_path, name)

    assert list(below([tmp_path / name])) == [tmp_path / name]


def test_links_that_lead_in_a_circle_or_nowhere_are_passed_over(tmp_path: Path) -> None:
    touch(tmp_path, "a.safetensors")
    (tmp_path / "circle.safetensors").symlink_to(tmp_path / "circle.safetensors")
    (tmp_path / "gone.safetensors").symlink_to(tmp_path / "nothing")

    assert names(tmp_path) == ["a.safetensors"]


def test_a_folder_that_may_not_be_read_is_yielded_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.safetensors", "locked/b.safetensors")
    scandir = os.scandir

    def refuses(folder: Path) -> object:
        if Path(folder).name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr("os.scandir", refuses)

    assert names(tmp_path) == ["a.safetensors", "locked"]


def test_what_lies_loose_in_a_pipeline_is_found_with_it(tmp_path: Path) -> None:
    touch(tmp_path, "sd/model_index.json", "sd/unet/diffusion_pytorch_model.safetensors")
    touch(tmp_path, "sd/sd-pruned.safetensors", "sd/README.md", "sd/.hidden.safetensors")

    found = [p.relative_to(tmp_path).as_posix() for p in with_loose(below([tmp_path]))]

    assert found == ["sd", "sd/sd-pruned.safetensors"]


def test_variants_and_shards_of_a_component_are_its_own(tmp_path: Path) -> None:
    stem = "vae/diffusion_pytorch_model"
    touch(tmp_path, "vae/config.json", f"{stem}.safetensors", f"{stem}.fp16.safetensors")
    touch(tmp_path, f"{stem}-00001-of-00002.safetensors", f"{stem}.safetensors.index.json")
    touch(tmp_path, "vae/style.safetensors")

    found = [p.relative_to(tmp_path).as_posix() for p in with_loose([tmp_path / "vae"])]

    assert found == ["vae", "vae/style.safetensors"]
