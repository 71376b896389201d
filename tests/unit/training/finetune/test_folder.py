import json
from pathlib import Path

import pytest
from PIL import Image

from memcard.errors import CorruptError, NotFoundError, UsageError
from memcard.training.finetune.folder import Folder, read_folder


def draw(path: Path, colour: str = "red", size: tuple[int, int] = (8, 6)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)
    return path


def captions(folder: Folder) -> dict[str, tuple[str, str]]:
    return {e.name: (e.caption, e.origin) for e in folder.examples}


def test_a_caption_beside_the_picture_counts_before_metadata_and_name(tmp_path: Path) -> None:
    draw(tmp_path / "a_red-apple_03.png")
    draw(tmp_path / "b.jpg", "blue")
    draw(tmp_path / "c.webp", "green")
    (tmp_path / "b.txt").write_text("\ufeffa blue\n thing ", "utf-8")
    lines = [
        {"file_name": "b.jpg", "text": "not this"},
        {"file_name": "c.webp", "caption": "a green one"},
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))

    found = captions(read_folder(tmp_path))

    assert found == {
        "a_red-apple_03.png": ("a red apple", "file name"),
        "b.jpg": ("a blue thing", "text file"),
        "c.webp": ("a green one", "metadata"),
    }


def test_captions_of_a_csv_and_of_a_metadata_file_in_a_subfolder_are_read(tmp_path: Path) -> None:
    draw(tmp_path / "in" / "x.png")
    (tmp_path / "in" / "metadata.csv").write_text('file_name,text\nx.png,"one, two"\n')

    assert captions(read_folder(tmp_path)) == {"in/x.png": ("one, two", "metadata")}


def test_a_kohya_folder_says_repeats_and_a_caption(tmp_path: Path) -> None:
    draw(tmp_path / "10_sks dog" / "IMG_0001.png")
    draw(tmp_path / "3_red_cat" / "y.png", "blue")

    found = {e.name: (e.caption, e.repeats) for e in read_folder(tmp_path).examples}

    assert found == {"10_sks dog/IMG_0001.png": ("sks dog", 10), "3_red_cat/y.png": ("red cat", 3)}


@pytest.mark.parametrize(
    "stem",
    ["IMG_1234", "000017", "DSC0042", "3f2a9c1b77e0", "a1b2c3d4-e5f6-4a7b-8c9d-0e1f2a3b4c5d"],
)
def test_a_number_from_a_camera_or_a_script_is_no_caption(tmp_path: Path, stem: str) -> None:
    draw(tmp_path / f"{stem}.png")

    folder = read_folder(tmp_path)

    assert folder.examples[0].caption == ""
    assert f"1 of 1 pictures have no caption: {stem}.png" in folder.notes[0]
    assert "--trigger" in folder.notes[0]


@pytest.mark.parametrize(
    ("stem", "said"), [("facade", "facade"), ("image of a dog (2)", "image of a dog")]
)
def test_words_that_look_like_numbers_stay_captions(tmp_path: Path, stem: str, said: str) -> None:
    draw(tmp_path / f"{stem}.png")

    assert read_folder(tmp_path).examples[0].caption == said


def test_all_bad_pictures_and_captions_are_named_in_one_error(tmp_path: Path) -> None:
    whole = draw(tmp_path / "good.png", size=(64, 64)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "good.png"}\n{broken\n')

    with pytest.raises(CorruptError) as caught:
        read_folder(tmp_path)

    said = str(caught.value)
    assert all(name in said for name in ("cut.png", "text.jpg", "line 2", "--skip-bad"))
    assert len(caught.value.faults) == 3


def test_bad_pictures_are_left_out_if_asked_and_said(tmp_path: Path) -> None:
    draw(tmp_path / "good.png")
    (tmp_path / "text.jpg").write_text("no picture")

    folder = read_folder(tmp_path, skip_bad=True)

    assert [e.name for e in folder.examples] == ["good.png"]
    assert "1 pictures cannot be read" in folder.notes[0]


def test_a_picture_known_to_be_good_is_not_decoded_again(tmp_path: Path) -> None:
    whole = draw(tmp_path / "good.png", size=(64, 64)).read_bytes()
    (tmp_path / "good.png").write_bytes(whole[:-20])  # its header is whole

    assert len(read_folder(tmp_path, known=lambda sha256: True).examples) == 1


def test_the_fingerprint_knows_pictures_captions_and_repeats_but_no_names(tmp_path: Path) -> None:
    for name in ("one", "two"):
        draw(tmp_path / name / "a.png").with_suffix(".txt").write_text("a thing")
    (tmp_path / "two" / "a.png").rename(tmp_path / "two" / "b.png")
    (tmp_path / "two" / "a.txt").rename(tmp_path / "two" / "b.txt")
    first = read_folder(tmp_path / "one").fingerprint

    assert read_folder(tmp_path / "two").fingerprint == first
    (tmp_path / "two" / "b.txt").write_text("another thing")
    assert read_folder(tmp_path / "two").fingerprint != first
    draw(tmp_path / "one" / "a.png", "blue")
    assert read_folder(tmp_path / "one").fingerprint != first


def test_the_order_of_examples_does_not_depend_on_names(tmp_path: Path) -> None:
    for folder, names in (("one", "abc"), ("two", "cab")):
        for name, colour in zip(names, ("red", "green", "blue"), strict=True):
            draw(tmp_path / folder / f"{name}.png", colour)

    one, two = (read_folder(tmp_path / n).examples for n in ("one", "two"))

    assert [e.sha256 for e in one] == [e.sha256 for e in two]


def test_the_size_is_the_one_that_is_shown(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.new("RGB", (8, 6)).save(tmp_path / "x.jpg", exif=exif)

    example = read_folder(tmp_path).examples[0]

    assert (example.width, example.height) == (6, 8)


def test_folders_inside_are_read_only_if_asked_and_hidden_ones_never(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    draw(tmp_path / "in" / "b.png", "blue")
    draw(tmp_path / ".thumbnails" / "c.png", "green")

    assert len(read_folder(tmp_path).examples) == 2
    assert len(read_folder(tmp_path, recursive=False).examples) == 1


def test_captions_for_pictures_that_are_not_there_and_copies_are_noted(tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    draw(tmp_path / "b.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "gone.png", "text": "x"}')

    notes = read_folder(tmp_path).notes

    assert notes == (
        "1 captions are for pictures that are not there: metadata.jsonl names gone.png.",
        "1 pictures are copies of others in the folder.",
    )


def test_no_folder_no_pictures_or_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such folder"):
        read_folder(tmp_path / "none")
    with pytest.raises(NotFoundError, match="no pictures there"):
        read_folder(tmp_path)
    with pytest.raises(UsageError, match="is a file"):
        read_folder(draw(tmp_path / "a.png"))
