"""Clips as files: MP4, animated WebP and GIF, or a folder of PNGs, each with how it was made.

Texts lie where programs look for them: in the comment of an MP4 and of a GIF, in EXIF and XMP of a WebP as
of any picture, in every PNG of a folder. Our own JSON is the ``description`` of an MP4; a GIF has no place
for it. Frames are encoded one after another; the same frames and texts give the same bytes.

Sources: ISO/IEC 14496-12 and 14496-14 (MP4); GIF89a, 23 and 24; RFC 9649 (WebP); the metadata keys of
FFmpeg's mov muxer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from PIL import Image

from memcard.core.atomic import replacing, replacing_folder
from memcard.core.extras import require
from memcard.errors import UsageError
from memcard.generation.picture import texts_for, write_picture

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES: Final = (".mp4", ".webp", ".gif")
_CODECS: Final = ("libx264", "mpeg4")  # the first that this build of FFmpeg can write
_FASTEST_GIF: Final = 50  # frames per second: a shorter delay is shown as a tenth of a second
_FASTEST: Final = 1000  # of a WebP, which counts milliseconds
_WEBP_QUALITY: Final = 90
_CRF: Final = (40, 10, 16)  # of H.264 at quality 1, at 100, and if nothing is said
_BITS: Final = 0.5  # per pixel and frame, of MPEG-4
_BT709: Final = 1  # colours as in all HD video, in FFmpeg's numbers
_PALETTE: Final = 256
_SAMPLES: Final = 16  # frames a GIF's palette is drawn from
_SAMPLE: Final = 64  # pixels, a side of each


def write_clip(
    frames: Tensor,
    path: Path,
    *,
    fps: int,
    text: str = "",
    facts: Mapping[str, Any] | None = None,
    quality: int | None = None,
) -> Path:
    """Write a clip in the format its name asks for.

    Args:
        frames: 0..1, [frames, height, width, 3], on the CPU.
        path: ends in .mp4, .webp or .gif; without an ending it is a folder of PNGs, 00001.png and so on.
        fps: frames per second; a folder of PNGs does not keep it but in ``facts``.
        text: of ``infotext.write``.
        facts: our JSON.
        quality: 1..100, of MP4 and WebP; None is 90 for WebP, and for H.264 a rate factor of 16 (80).

    Returns:
        ``path``.

    Raises:
        UsageError: this format cannot hold such a clip, or PyAV is not installed (MP4).
        DiskError: the disk is full, read-only or failing; a file of that name is untouched.
    """
    kind = kind_of(path)
    _check(frames, kind, fps, quality)
    own = dict(facts or {})
    if kind == "folder":
        _write_folder(frames, path, text, own)
        return path
    with replacing(path) as file:
        if kind == "mp4":
            _write_mp4(frames, file, fps, text, own, quality)
        elif kind == "webp":
            _write_webp(frames, file, fps, text, own, quality)
        else:
            _write_gif(frames, file, fps, text)
    return path


def kind_of(path: Path) -> str:
    """Return ``mp4``, ``webp``, ``gif`` or ``folder``; says first what MP4 needs.

    Raises:
        UsageError: clips are not written in this format, or PyAV is not installed (MP4).
    """
    suffix = path.suffix.lower()
    if suffix and suffix not in SUFFIXES:
        raise UsageError(
            f"{path}: no clip can be written as {suffix}. There are {', '.join(SUFFIXES)}; a name "
            "without an ending makes a folder of PNGs."
        )
    if suffix == ".mp4":
        require("video", what="Writing MP4")
    return suffix.removeprefix(".") or "folder"


def texts_of(path: Path) -> dict[str, str]:
    """Return the texts of an MP4 by the names they have in a PNG: ``parameters`` and ``memcard``.

    Raises:
        UsageError: PyAV is not installed, or this is no video.
    """
    require("video", what="Reading the texts of a video")
    import av

    try:
        with av.open(str(path)) as container:
            said = dict(container.metadata)
    except av.error.FFmpegError as error:
        raise UsageError(f"{path}: cannot be read as a video: {error.strerror}.") from error
    names = {"comment": "parameters", "description": "memcard"}
    return {ours: said[theirs] for theirs, ours in names.items() if said.get(theirs)}


def _check(frames: Tensor, kind: str, fps: int, quality: int | None) -> None:
    count, height, width, colours = frames.shape
    faults = []
    if count < 1 or colours != 3:
        faults.append(f"a clip has frames of three colours, not the shape {tuple(frames.shape)}")
    if fps < 1:
        faults.append(f"{fps} frames per second: at least 1 is needed")
    if kind == "gif" and fps > _FASTEST_GIF:
        faults.append(f"a GIF shows {_FASTEST_GIF} frames per second at most, not {fps}")
    if kind == "webp" and fps > _FASTEST:
        faults.append(f"a WebP shows {_FASTEST} frames per second at most, not {fps}")
    if kind == "mp4" and (height % 2 or width % 2):
        faults.append(f"{width} x {height}: the sides of an MP4 are even")
    if quality is not None and not 1 <= quality <= 100:
        faults.append(f"quality {quality} is not in 1..100")
    if faults:
        raise UsageError(f"This clip cannot be written: {'; '.join(faults)}.")


def _images(frames: Tensor) -> Iterator[Image.Image]:
    """Yield the frames in 8 bits, made one by one."""
    for frame in frames:
        yield Image.fromarray(_bytes(frame))


def _bytes(frame: Tensor) -> Any:
    return (frame * 255).round().byte().numpy()


def _durations(count: int, fps: int, unit: int) -> list[int]:
    """Return how long each frame is shown, in milliseconds; rounded so that the clip keeps its length.

    Args:
        count: frames.
        fps: frames per second.
        unit: milliseconds the format counts in.
    """
    ends = [round(i * 1000 / fps / unit) * unit for i in range(count + 1)]
    return [after - before for before, after in pairwise(ends)]


def _write_mp4(
    frames: Tensor,
    file: BinaryIO,
    fps: int,
    text: str,
    facts: Mapping[str, Any],
    quality: int | None,
) -> None:
    import av

    codec = next(name for name in _CODECS if name in av.codecs_available)
    # The same bytes each time: no version of the encoder, no time of day.
    flags = {"fflags": "+bitexact", "movflags": "+faststart"}
    with av.open(file, "w", format="mp4", options=flags) as container:
        if text:
            container.metadata["comment"] = _clean(text)
        if facts:
            container.metadata["description"] = json.dumps(facts, sort_keys=True)
        stream: Any = container.add_stream(codec, rate=Fraction(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"  # what every player shows
        context = stream.codec_context
        context.color_primaries = context.color_trc = context.colorspace = _BT709
        context.color_range = 1  # 16..235
        context.flags |= av.codec.context.Flags.bitexact
        _set_quality(stream, codec, frames, fps, quality)
        for frame in frames:
            shown = av.VideoFrame.from_ndarray(_bytes(frame), format="rgb24")
            plane = shown.reformat(format="yuv420p", dst_colorspace="ITU709")
            container.mux(stream.encode(plane))
        container.mux(stream.encode())


def _set_quality(stream: Any, codec: str, frames: Tensor, fps: int, quality: int | None) -> None:
    if codec == "libx264":
        low, high, usual = _CRF
        rate = usual if quality is None else round(low + (high - low) * (quality - 1) / 99)
        stream.options = {"crf": str(rate), "preset": "medium"}
    else:
        pixels = frames.shape[1] * frames.shape[2] * fps
        stream.bit_rate = int(pixels * _BITS * (quality or 100) / 100) + 100_000


def _write_webp(
    frames: Tensor,
    file: BinaryIO,
    fps: int,
    text: str,
    facts: Mapping[str, Any],
    quality: int | None,
) -> None:
    first, *rest = _images(frames)
    pairs = {"parameters": text} if text else {}
    if facts:
        pairs["memcard"] = json.dumps(facts, sort_keys=True)
    first.save(
        file,
        "WEBP",
        save_all=True,
        append_images=rest,
        duration=_durations(len(frames), fps, 1),
        loop=0,
        quality=_WEBP_QUALITY if quality is None else quality,
        **(texts_for("WEBP", pairs) if pairs else {}),
    )


def _write_gif(frames: Tensor, file: BinaryIO, fps: int, text: str) -> None:
    """One palette for the whole clip: with one for each frame, flat areas flicker."""
    palette = _palette(frames)
    first, *rest = (image.quantize(palette=palette) for image in _images(frames))
    comment = {"comment": _clean(text).encode()} if text else {}
    first.save(
        file,
        "GIF",
        save_all=True,
        append_images=rest,
        duration=_durations(len(frames), fps, 10),
        loop=0,
        optimize=False,  # it would drop colours that only later frames have
        **comment,
    )


def _palette(frames: Tensor) -> Image.Image:
    chosen = frames[:: max(1, len(frames) // _SAMPLES)][:_SAMPLES]
    sheet = Image.new("RGB", (_SAMPLE * len(chosen), _SAMPLE))
    for at, image in enumerate(_images(chosen)):
        sheet.paste(image.resize((_SAMPLE, _SAMPLE)), (_SAMPLE * at, 0))
    # Measured on moving hills of all hues, mean error of 255 after a blur as the eye makes it: 3.0 without
    # k-means, 1.8 with it.
    return sheet.quantize(_PALETTE, kmeans=3)


def _write_folder(frames: Tensor, path: Path, text: str, facts: Mapping[str, Any]) -> None:
    try:
        with replacing_folder(path) as folder:
            for number, image in enumerate(_images(frames), 1):
                with replacing(folder / f"{number:05}.png") as file:
                    write_picture(image, file, "PNG", text, facts)
    except FileExistsError as error:
        raise UsageError(
            f"{path}: is there already and not an empty folder. Choose another name for the frames, or "
            "remove it."
        ) from error


def _clean(text: str) -> str:
    """Return a text that can be encoded and has no zero in it, which would end it."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
