"""Clips come back from their files as they went in: frames, size, speed, texts."""

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from memcard.core import extras
from memcard.errors import UsageError
from memcard.generation import clip_file
from memcard.generation.clip_file import SUFFIXES, kind_of, texts_of, write_clip
from memcard.generation.image_text import read_texts

TEXT = "a fox, très vite: (snow:1.2)\nSteps: 3, Sampler: Euler, Seed: 5"
FACTS = {"settings": {"frames": 9, "fps": 8}, "checkpoint": "ltx ü"}


def waves(count: int = 9, height: int = 48, width: int = 64) -> Tensor:
    """Coloured hills that move: smooth, as compression likes, and every frame another."""
    t = torch.linspace(0, 1, count)[:, None, None]
    y = torch.linspace(0, 1, height)[None, :, None]
    x = torch.linspace(0, 1, width)[None, None, :]
    red = (0.5 + 0.5 * torch.sin(6 * (x + t))).expand(count, height, width)
    green = (0.5 + 0.5 * torch.cos(5 * (y - t))).expand(count, height, width)
    blue = (x * y * (1 - 0.5 * t)).expand(count, height, width)
    return torch.stack([red, green, blue], dim=-1)


def frames_of(path: Path) -> Any:
    """Read a clip with what others read it with."""
    if path.suffix == ".mp4":
        with av.open(str(path)) as container:
            return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    with Image.open(path) as image:
        found = []
        for at in range(getattr(image, "n_frames", 1)):
            image.seek(at)
            found.append(np.asarray(image.convert("RGB")))
        return np.stack(found)


def durations_of(path: Path) -> list[int]:
    image: Any
    with Image.open(path) as image:
        found = []
        for at in range(image.n_frames):
            image.seek(at)
            image.load()
            found.append(image.info["duration"])
        return found


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_frames_come_back(suffix: str, tmp_path: Path) -> None:
    frames = waves()

    path = write_clip(frames, tmp_path / f"clip{suffix}", fps=8, text=TEXT, facts=FACTS)

    found = frames_of(path)
    want = (frames * 255).round().byte().numpy()
    assert found.shape == want.shape == (9, 48, 64, 3)
    off = np.abs(found.astype(int) - want.astype(int))
    assert off.mean() < (10 if suffix == ".gif" else 4)  # of 255; a GIF has 256 colours, strewn
    for at in range(9):  # each is nearest to itself, so none is lost, doubled or out of order
        distances = [np.abs(found[at].astype(int) - other.astype(int)).mean() for other in want]
        assert int(np.argmin(distances)) == at
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_an_mp4_has_its_speed_codec_and_colours(tmp_path: Path) -> None:
    path = write_clip(waves(), tmp_path / "clip.mp4", fps=25)

    with av.open(str(path)) as container:
        stream: Any = container.streams.video[0]
        assert stream.average_rate == Fraction(25)
        assert stream.frames == 9
        assert (stream.width, stream.height) == (64, 48)
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        assert stream.codec_context.colorspace == 1
        assert float(stream.duration * stream.time_base) == pytest.approx(9 / 25)


def test_without_h264_it_is_mpeg_4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clip_file, "_CODECS", ("no such codec", "mpeg4"))

    path = write_clip(waves(), tmp_path / "clip.mp4", fps=8, quality=80)

    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.name == "mpeg4"
    off = np.abs(frames_of(path).astype(int) - (waves() * 255).round().byte().numpy().astype(int))
    assert off.mean() < 6


def test_the_texts_are_where_programs_look(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        write_clip(waves(2), tmp_path / f"c{suffix}", fps=8, text=TEXT, facts=FACTS)

    video = texts_of(tmp_path / "c.mp4")
    picture = read_texts(tmp_path / "c.webp").texts
    with Image.open(tmp_path / "c.gif") as gif:
        comment = gif.info["comment"].decode()

    assert video["parameters"] == picture["parameters"] == comment == TEXT
    assert json.loads(video["memcard"]) == json.loads(picture["memcard"]) == FACTS


def test_a_clip_without_texts_has_none(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        write_clip(waves(2), tmp_path / f"c{suffix}", fps=8)

    assert texts_of(tmp_path / "c.mp4") == {}
    assert read_texts(tmp_path / "c.webp").texts == {}


@pytest.mark.parametrize(("suffix", "unit"), [(".webp", 1), (".gif", 10)])
@pytest.mark.parametrize("fps", [8, 24, 30])
def test_a_clip_keeps_its_length(suffix: str, unit: int, fps: int, tmp_path: Path) -> None:
    path = write_clip(waves(9, 16, 16), tmp_path / f"c{suffix}", fps=fps)

    shown = durations_of(path)

    assert sum(shown) == pytest.approx(9000 / fps, abs=unit)
    assert all(abs(each - 1000 / fps) <= unit for each in shown)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_clip_gives_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    first = write_clip(waves(), tmp_path / f"a{suffix}", fps=8, text=TEXT, facts=FACTS)
    second = write_clip(waves(), tmp_path / f"b{suffix}", fps=8, text=TEXT, facts=FACTS)

    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("suffix", [".mp4", ".webp"])
def test_quality_costs_bytes(suffix: str, tmp_path: Path) -> None:
    noisy = (waves() + 0.2 * torch.rand(9, 48, 64, 3)).clamp(0, 1)
    low, high = (
        write_clip(noisy, tmp_path / f"{q}{suffix}", fps=8, quality=q).stat().st_size
        for q in (10, 95)
    )

    assert low * 2 < high


def test_a_name_without_an_ending_is_a_folder_of_pngs(tmp_path: Path) -> None:
    frames = waves(3)

    path = write_clip(frames, tmp_path / "clip", fps=8, text=TEXT, facts=FACTS)

    names = sorted(p.name for p in path.iterdir())
    assert names == ["00001.png", "00002.png", "00003.png"]
    with Image.open(path / "00002.png") as image:
        assert np.array_equal(np.asarray(image), (frames[1] * 255).round().byte().numpy())
        assert image.info["parameters"] == TEXT
        assert json.loads(image.info["memcard"]) == FACTS


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "mine.txt").write_text("mine")

    with pytest.raises(UsageError, match="is there already and not an empty folder"):
        write_clip(waves(2), tmp_path / "clip", fps=8)

    assert [p.name for p in (tmp_path / "clip").iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_error_on_the_way_leaves_the_old_file(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"clip{suffix}"
    path.write_bytes(b"old")
    calls = []

    def fails(frame: Tensor) -> object:
        calls.append(1)
        if len(calls) > 4:
            raise KeyboardInterrupt
        return (frame * 255).round().byte().numpy()

    monkeypatch.setattr(clip_file, "_bytes", fails)

    with pytest.raises(KeyboardInterrupt):
        write_clip(waves(), path, fps=8)

    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_single_frame_is_a_clip_too(tmp_path: Path) -> None:
    for suffix in SUFFIXES:
        assert len(frames_of(write_clip(waves(1), tmp_path / f"c{suffix}", fps=8))) == 1


def test_colours_that_only_later_frames_have_stay_in_a_gif(tmp_path: Path) -> None:
    frames = torch.zeros(2, 16, 16, 3)
    frames[1, :, :, 0] = 1.0

    found = frames_of(write_clip(frames, tmp_path / "c.gif", fps=8))

    assert found[-1, :, :, 0].min() > 240
    assert found[0].max() < 10


@pytest.mark.parametrize(
    ("name", "said", "message"),
    [
        ("c.avi", {}, r"no clip can be written as \.avi.*\.mp4, \.webp, \.gif"),
        ("c.gif", {"fps": 60}, "a GIF shows 50 frames per second at most, not 60"),
        ("c.webp", {"fps": 2000}, "a WebP shows 1000"),
        ("c.webp", {"fps": 0, "quality": 101}, r"0 frames per second.*quality 101 is not in 1\.\.100"),
    ],
)  # fmt: skip
def test_what_a_format_cannot_hold_is_refused(
    name: str, said: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        write_clip(waves(2), tmp_path / name, **{"fps": 8, **said})

    assert list(tmp_path.iterdir()) == []


def test_odd_sides_are_refused_by_mp4_and_taken_by_the_others(tmp_path: Path) -> None:
    odd = waves(2, 15, 17)

    with pytest.raises(UsageError, match="17 x 15: the sides of an MP4 are even"):
        write_clip(odd, tmp_path / "c.mp4", fps=8)

    assert frames_of(write_clip(odd, tmp_path / "c.webp", fps=8)).shape == (2, 15, 17, 3)


def test_without_pyav_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(extras.EXTRAS, "video", ("no_such_module",))

    with pytest.raises(UsageError, match=r"Writing MP4 needs.*pip install 'memcard\[video\]'"):
        kind_of(Path("clip.mp4"))
    with pytest.raises(UsageError, match=r"pip install 'memcard\[video\]'"):
        texts_of(Path("clip.mp4"))

    assert kind_of(Path("clip.webp")) == "webp"
    assert kind_of(Path("frames")) == "folder"


def test_what_is_no_video_has_no_texts(tmp_path: Path) -> None:
    (tmp_path / "x.mp4").write_bytes(b"no video" * 100)

    with pytest.raises(UsageError, match="cannot be read as a video"):
        texts_of(tmp_path / "x.mp4")


@given(
    text=st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=200)
)
@settings(max_examples=15, deadline=None)
def test_any_text_survives(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("texts")
    tiny = torch.zeros(1, 16, 16, 3)

    write_clip(tiny, folder / "c.mp4", fps=8, text=text)
    write_clip(tiny, folder / "c.gif", fps=8, text=text)

    assert texts_of(folder / "c.mp4").get("parameters") == text
    with Image.open(folder / "c.gif") as gif:
        assert gif.info["comment"].decode() == text
