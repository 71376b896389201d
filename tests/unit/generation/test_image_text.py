"""The texts in a picture file are found wherever tools put them, and pixels are never read."""

import io
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fixtures.foreign_images import A1111, chunk, png, user_comment, with_exif, write
from memcard.errors import CorruptError, NotFoundError, UnsupportedError
from memcard.generation import _exif
from memcard.generation.image_text import TEXT_MOST, read_texts

USER_COMMENT = 0x9286
MAKE, MODEL, SOFTWARE = 0x010F, 0x0110, 0x0131


def test_texts_of_a_png_are_found_before_and_behind_the_picture(tmp_path: Path) -> None:
    texts = {"parameters": A1111, "other": "größe 雪"}

    before = read_texts(write(tmp_path / "a.png", png(texts, size=(30, 20))))
    behind = read_texts(write(tmp_path / "b.png", png(texts, at_end=True)))

    assert before.texts == behind.texts == texts
    assert (before.format, before.width, before.height) == ("PNG", 30, 20)


def test_packed_texts_of_a_png_are_unpacked(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_text("short", "é" * 100, zip=True)
    info.add_itxt("long", "雪" * 100, zip=True)
    Image.new("L", (4, 4)).save(tmp_path / "a.png", pnginfo=info)

    assert read_texts(tmp_path / "a.png").texts == {"short": "é" * 100, "long": "雪" * 100}


def test_the_exif_of_a_png_counts_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[USER_COMMENT] = user_comment("a cat")
    Image.new("L", (4, 4)).save(tmp_path / "a.png", exif=exif.tobytes())

    assert read_texts(tmp_path / "a.png").texts == {"parameters": "a cat"}


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize(
    "comment",
    [
        b"UNICODE\0" + "é 雪, Steps: 1".encode("utf-16-be"),
        b"UNICODE\0" + "é 雪, Steps: 1".encode("utf-16-le"),
        b"UNICODE\0\xff\xfe" + "é 雪, Steps: 1".encode("utf-16-le"),
        bytes(8) + "é 雪, Steps: 1".encode(),
        b"ASCII\0\0\0" + "é 雪, Steps: 1".encode(),
        "é 雪, Steps: 1".encode(),
    ],
)
def test_user_comments_are_read_in_every_code(tmp_path: Path, kind: str, comment: bytes) -> None:
    path = write(tmp_path / "a", with_exif(kind, {SOFTWARE: "tool"}, {USER_COMMENT: comment}))

    found = read_texts(path)

    assert found.texts == {"Software": "tool", "parameters": "é 雪, Steps: 1"}
    assert (found.format, found.width, found.height) == (kind, 16, 8)


def test_the_graph_that_comfyui_puts_into_exif_gets_its_names(tmp_path: Path) -> None:
    tags = {MAKE: 'workflow:{"a": 1}', MODEL: 'prompt:{"3": {}}'}

    found = read_texts(write(tmp_path / "a.webp", with_exif("WEBP", tags, {})))

    assert found.texts == {"workflow": '{"a": 1}', "prompt": '{"3": {}}'}


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"MM\0*\0\0\0\x08\0\0"}])
def test_every_kind_of_webp_says_its_size(tmp_path: Path, options: dict[str, object]) -> None:
    Image.new("RGB", (300, 200)).save(tmp_path / "a.webp", **options)

    found = read_texts(tmp_path / "a.webp")

    assert (found.width, found.height, found.texts) == (300, 200, {})


def test_a_comment_in_a_jpeg_is_kept(tmp_path: Path) -> None:
    Image.new("L", (4, 4)).save(tmp_path / "a.jpg", comment=b"by hand")

    assert read_texts(tmp_path / "a.jpg").texts == {"comment": "by hand"}


def test_a_picture_that_was_cut_off_gives_what_is_there(tmp_path: Path) -> None:
    whole = png({"parameters": "a cat"})

    found = read_texts(write(tmp_path / "a.png", whole[:-20]))

    assert found.texts == {"parameters": "a cat"}
    assert found.notes == ["The file is damaged: it ends in the middle."]


def test_a_text_with_a_wrong_checksum_is_not_believed(tmp_path: Path) -> None:
    broken = png({"parameters": "a cat", "other": "b"}).replace(b"a cat", b"a dog")

    found = read_texts(write(tmp_path / "a.png", broken))

    assert found.texts == {"other": "b"}
    assert "checksum" in found.notes[0]


def test_a_broken_file_that_says_nothing_is_corrupt(tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match="ends in the middle") as caught:
        read_texts(write(tmp_path / "a.png", png({})[:30]))

    assert "a.png" in str(caught.value)
    assert caught.value.faults == ("The file is damaged: it ends in the middle.",)


def test_other_files_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")

    with pytest.raises(UnsupportedError, match="no PNG, JPEG, WebP, MP4 or GIF"):
        read_texts(write(tmp_path / "a.png", b"BM nothing"))
    with pytest.raises(UnsupportedError, match="is no file"):
        read_texts(tmp_path / "pipe.png")
    with pytest.raises(UnsupportedError, match="is no file"):
        read_texts(tmp_path)
    with pytest.raises(NotFoundError, match="no such file"):
        read_texts(tmp_path / "none.png")


def test_a_text_that_unpacks_to_gigabytes_is_left_out(tmp_path: Path) -> None:
    bomb = chunk(b"zTXt", b"parameters\0\0" + zlib.compress(bytes(40 << 20), 1))
    path = write(tmp_path / "a.png", png({"a": "b"}).replace(_end(), bomb + _end()))

    tracemalloc.start()
    found = read_texts(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert found.texts == {"a": "b"}
    assert "too large" in found.notes[0]
    assert peak < 2.2 * TEXT_MOST


def test_pixels_are_not_read(tmp_path: Path) -> None:
    pixels = struct.pack(">I", 64 << 20) + b"IDAT"
    path = tmp_path / "a.png"
    with path.open("wb") as file:  # a sparse file: 64 MB of nothing
        file.write(png({})[:33] + pixels)
        file.seek(64 << 20, 1)
        file.write(bytes(4) + chunk(b"tEXt", b"parameters\0behind") + _end())

    tracemalloc.start()
    found = read_texts(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert found.texts == {"parameters": "behind"}
    assert peak < 1 << 20


def test_the_comment_of_a_gif_is_read(tmp_path: Path) -> None:
    frames = [Image.new("P", (30, 20), color) for color in (0, 1)]
    text = "größe, " * 100
    path = tmp_path / "a.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:], comment=text.encode(), loop=0)

    found = read_texts(path)

    assert found.texts == {"parameters": text}
    assert (found.format, found.width, found.height) == ("GIF", 30, 20)


@pytest.mark.parametrize("ends_with_texts", [False, True])
def test_the_texts_of_an_mp4_are_found_behind_and_before_its_frames(
    tmp_path: Path, ends_with_texts: bool
) -> None:
    def text(kind: bytes, value: str) -> bytes:
        return box(kind, box(b"data", b"\0\0\0\1" + bytes(4) + value.encode()))

    listed = box(b"ilst", text(b"\xa9too", "x") + text(b"\xa9cmt", "größe") + text(b"desc", "{}"))
    moov = box(b"moov", box(b"mvhd", bytes(9)) + box(b"udta", box(b"meta", bytes(4) + listed)))
    frames = struct.pack(">I4sQ", 1, b"mdat", 16 + 1000) + bytes(1000)
    body = frames + moov if ends_with_texts else moov + frames

    found = read_texts(write(tmp_path / "a.mp4", box(b"ftyp", b"isom") + body))

    assert (found.format, found.texts) == ("MP4", {"parameters": "größe", "memcard": "{}"})


def box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


def test_a_clip_that_was_cut_off_is_corrupt(tmp_path: Path) -> None:
    with pytest.raises(CorruptError, match="ends in the middle"):
        read_texts(write(tmp_path / "a.mp4", box(b"ftyp", b"isom") + b"\0\0\xff\xffmdat"))
    with pytest.raises(CorruptError, match="ends in the middle"):
        read_texts(write(tmp_path / "a.gif", b"GIF89a\1\0"))


def test_our_exif_is_read_by_pillow() -> None:
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "JPEG", exif=b"Exif\0\0" + _exif.write("größe 雪"))

    comment = Image.open(file).getexif().get_ifd(0x8769)[USER_COMMENT]

    assert comment == user_comment("größe 雪")


@pytest.mark.parametrize("block", [b"", b"MM\0*", b"nonsense"])
def test_what_is_no_exif_is_refused(block: bytes) -> None:
    with pytest.raises(ValueError, match="no TIFF header"):
        _exif.read(block)


@pytest.mark.parametrize(
    "block",
    [
        b"II*\0\xff\xff\xff\xff",
        b"MM\0*\0\0\0\x08\xff\xff",
        _exif.write("x")[:-3],
        # a directory below that is the first one again
        struct.pack(">2sHIHHHIII", b"MM", 42, 8, 1, 0x8769, 4, 1, 8, 0),
    ],
)
def test_broken_exif_does_no_harm(block: bytes) -> None:
    assert _exif.read(block) == {}


def _end() -> bytes:
    return chunk(b"IEND", b"")
