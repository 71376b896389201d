"""The texts in a picture file, read without its pixels: PNG, JPEG and WebP, and clips as MP4 or GIF.

Only the table of contents of a file is walked; the picture itself is skipped. Whatever a file claims,
no more than ``TEXT_MOST`` bytes of texts are kept.

Sources: PNG (Third Edition) 11.3.3 (tEXt, zTXt, iTXt) and 11.3.4.5 (eXIf); JPEG, ITU-T T.81 annex B;
JFIF APP1 segments of Exif 2.32 and XMP part 3; WebP, RFC 9649.
"""

from __future__ import annotations

import re
import stat
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from html import unescape
from pathlib import Path
from typing import BinaryIO, Final

from memcard.errors import CorruptError, NotFoundError, UnsupportedError
from memcard.generation import _clip_text, _exif

TEXT_MOST: Final = 16 << 20  # bytes of all texts together; a large ComfyUI workflow has 1 MB
SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".mp4", ".gif")
_CHUNKS: Final = 100_000  # a PNG of 800 megapixels in pieces of 8 kB has as many
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_XMP_KEY: Final = "XML:com.adobe.xmp"
_XMP_JPEG: Final = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_ELEMENT: Final = re.compile(r"<memcard:made>([^<]*)</memcard:made>")
_XMP_ATTRIBUTE: Final = re.compile(r"""\bmemcard:made=(?:"([^"]*)"|'([^']*)')""")
_COMFY: Final = re.compile(r"(prompt|workflow):(?=\s*\{)", re.IGNORECASE)
_SIZE_MARKS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOF0 … SOF15
_LONE_MARKS: Final = frozenset((0x01, *range(0xD0, 0xD9)))  # no length follows these
_START_OF_SCAN: Final = 0xDA
_END_OF_IMAGE: Final = 0xD9


@dataclass(slots=True)
class ImageText:
    """What stands in a picture file beside its pixels.

    Attributes:
        format: ``PNG``, ``JPEG``, ``WEBP``, ``MP4`` or ``GIF``.
        width: pixels; 0 if the file does not say.
        height: pixels; 0 if the file does not say.
        texts: keyword to text, the first of each keyword. A UserComment, and the comment of a clip, is called
            ``parameters``, our own JSON ``memcard``, a graph of ComfyUI in EXIF ``prompt`` or ``workflow``, as in a PNG.
        notes: what could not be read, one sentence each.
    """

    format: str
    width: int = 0
    height: int = 0
    texts: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    room: int = TEXT_MOST

    def take(self, name: str, text: str) -> None:
        """Keep a text if it is the first of its name and there is room."""
        if name in self.texts or not text:
            return
        if len(text) > self.room:
            self.notes.append(f"The text {name[:40]!r} is too large and was left out.")
            return
        self.room -= len(text)
        self.texts[name] = text


def read_texts(path: Path) -> ImageText:
    """Return the texts of a picture; what format it has is seen from its first bytes.

    A file that was cut off gives the texts that are there, and a note.

    Raises:
        NotFoundError: there is no such file.
        UnsupportedError: it is no PNG, JPEG, WebP, MP4 or GIF.
        CorruptError: the file is broken and nothing in it could be read; names every fault.
    """
    try:
        regular = stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        raise NotFoundError(f"{path}: no such file.") from None
    if not regular:  # opening a pipe would wait for ever
        raise UnsupportedError(f"{path}: is no file. Name a picture: {', '.join(SUFFIXES)}.")
    with path.open("rb") as file:
        head = file.read(12)
        found, walk = _format(head)
        if walk is None:
            raise UnsupportedError(
                f"{path}: is no PNG, JPEG, WebP, MP4 or GIF; texts are read from these. Name such a file."
            )
        try:
            walk(file, found)
        except (ValueError, EOFError) as error:
            found.notes.append(f"The file is damaged: {error}.")
    if found.notes and not found.texts:
        raise CorruptError(
            f"{path}: {' '.join(found.notes)} Get the picture again from where it came.",
            faults=found.notes,
        )
    return found


def _format(head: bytes) -> tuple[ImageText, Callable[[BinaryIO, ImageText], None] | None]:
    if head.startswith(_PNG):
        return ImageText("PNG"), _png
    if head.startswith(b"\xff\xd8\xff"):
        return ImageText("JPEG"), _jpeg
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return ImageText("WEBP"), _webp
    if head[4:8] == b"ftyp":
        return ImageText("MP4"), _mp4
    if head.startswith((b"GIF87a", b"GIF89a")):
        return ImageText("GIF"), _gif
    return ImageText(""), None


def _exactly(file: BinaryIO, count: int) -> bytes:
    found = file.read(count)
    if len(found) != count:
        raise EOFError("it ends in the middle")
    return found


def _png(file: BinaryIO, found: ImageText) -> None:
    file.seek(len(_PNG))
    for _ in range(_CHUNKS):
        head = _exactly(file, 8)
        size, kind = int.from_bytes(head[:4], "big"), head[4:]
        if kind == b"IEND":
            return
        if kind not in (b"IHDR", b"tEXt", b"zTXt", b"iTXt", b"eXIf"):
            file.seek(size + 4, 1)
            continue
        if size > TEXT_MOST:
            found.notes.append(f"A text of {size} bytes is too large and was left out.")
            file.seek(size + 4, 1)
            continue
        content, checksum = _exactly(file, size), _exactly(file, 4)
        if zlib.crc32(kind + content) != int.from_bytes(checksum, "big"):
            found.notes.append(
                f"The checksum of a {kind.decode()} chunk is wrong; it was left out."
            )
        elif kind == b"IHDR":
            found.width = int.from_bytes(content[:4], "big")
            found.height = int.from_bytes(content[4:8], "big")
        elif kind == b"eXIf":
            _take_exif(content, found)
        else:
            _png_text(kind, content, found)
    raise ValueError("it has too many chunks")


def _png_text(kind: bytes, content: bytes, found: ImageText) -> None:
    raw, _, rest = content.partition(b"\0")
    name = raw.decode("latin-1")
    if kind == b"tEXt":
        text = _latin(rest)
    elif kind == b"zTXt":
        text = _latin(_inflated(name, rest[1:], found))
    else:
        packed, rest = rest[:1] == b"\1", rest[2:]
        body = rest.split(b"\0", 2)[-1]  # after the language and the translated keyword
        text = (_inflated(name, body, found) if packed else body).decode("utf-8", "replace")
    if name == _XMP_KEY:
        _take_xmp(text, found)
    else:
        found.take(name, text)


def _latin(raw: bytes) -> str:
    """Decode tEXt: Latin-1 by the standard, UTF-8 by tools that do not care."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _inflated(name: str, packed: bytes, found: ImageText) -> bytes:
    """Unpack at most as much as there is room for."""
    machine = zlib.decompressobj()
    try:
        text = machine.decompress(packed, found.room + 1)
    except zlib.error:
        found.notes.append(f"The text {name[:40]!r} cannot be unpacked; it was left out.")
        return b""
    if len(text) > found.room:
        found.notes.append(f"The text {name[:40]!r} is too large and was left out.")
        return b""
    return text


def _jpeg(file: BinaryIO, found: ImageText) -> None:
    file.seek(2)
    for _ in range(_CHUNKS):
        if _exactly(file, 1) != b"\xff":
            raise ValueError("a segment does not begin where it should")
        mark = 0xFF
        while mark == 0xFF:  # any number of fill bytes
            mark = _exactly(file, 1)[0]
        if mark in (_START_OF_SCAN, _END_OF_IMAGE):
            return  # texts stand before the picture
        if mark in _LONE_MARKS:
            continue
        size = int.from_bytes(_exactly(file, 2), "big") - 2
        if size < 0:
            raise ValueError("a segment is shorter than its length")
        if mark == 0xE1 or mark == 0xFE or mark in _SIZE_MARKS:
            _jpeg_segment(mark, _exactly(file, size), found)
        else:
            file.seek(size, 1)
    raise ValueError("it has too many segments")


def _jpeg_segment(mark: int, content: bytes, found: ImageText) -> None:
    if mark in _SIZE_MARKS:
        found.height = int.from_bytes(content[1:3], "big")
        found.width = int.from_bytes(content[3:5], "big")
    elif mark == 0xFE:
        found.take("comment", content.rstrip(b"\0").decode("utf-8", "replace"))
    elif content.startswith(b"Exif\0\0"):
        _take_exif(content, found)
    elif content.startswith(_XMP_JPEG):
        _take_xmp(content.removeprefix(_XMP_JPEG).decode("utf-8", "replace"), found)


def _webp(file: BinaryIO, found: ImageText) -> None:
    file.seek(4)
    end = 8 + int.from_bytes(_exactly(file, 4), "little")
    file.seek(12)
    for _ in range(_CHUNKS):
        if file.tell() + 8 > end:
            return
        head = _exactly(file, 8)
        kind, size = head[:4], int.from_bytes(head[4:], "little")
        after = file.tell() + size + (size & 1)
        if kind in (b"EXIF", b"XMP "):
            if size > TEXT_MOST:
                found.notes.append(f"A text of {size} bytes is too large and was left out.")
            elif kind == b"EXIF":
                _take_exif(_exactly(file, size), found)
            else:
                _take_xmp(_exactly(file, size).decode("utf-8", "replace"), found)
        elif kind in (b"VP8X", b"VP8 ", b"VP8L"):
            _webp_size(kind, file.read(min(size, 10)), found)
        file.seek(after)
    raise ValueError("it has too many chunks")


def _webp_size(kind: bytes, head: bytes, found: ImageText) -> None:
    if found.width or len(head) < 5:
        return  # VP8X comes first and speaks for the whole
    if kind == b"VP8X":
        found.width = int.from_bytes(head[4:7], "little") + 1
        found.height = int.from_bytes(head[7:10], "little") + 1
    elif kind == b"VP8 ":
        found.width = int.from_bytes(head[6:8], "little") & 0x3FFF
        found.height = int.from_bytes(head[8:10], "little") & 0x3FFF
    else:
        bits = int.from_bytes(head[1:5], "little")
        found.width, found.height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1


def _mp4(file: BinaryIO, found: ImageText) -> None:
    _clip_text.mp4(file, found.take, found.room)


def _gif(file: BinaryIO, found: ImageText) -> None:
    found.width, found.height = _clip_text.gif(file, found.take, found.room)


def _take_exif(block: bytes, found: ImageText) -> None:
    try:
        said = _exif.read(block)
    except ValueError as error:
        found.notes.append(f"{str(error).capitalize()}; it was left out.")
        return
    for name, text in said.items():
        match = _COMFY.match(text)
        if match:
            found.take(match[1].lower(), text[match.end() :])
        elif name == "UserComment":
            found.take("parameters", text)
        else:
            found.take(name, text)


def _take_xmp(text: str, found: ImageText) -> None:
    """Take our own JSON; a pattern, no parser: entities of a stranger's XML are not expanded."""
    match = _XMP_ELEMENT.search(text) or _XMP_ATTRIBUTE.search(text)
    if match:
        found.take("memcard", unescape(next(filter(None, match.groups()), "")))
