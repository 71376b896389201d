"""Pictures that keep their texts when they are saved, as PNG, JPEG or WebP.

Pillow reads a PNG's texts into ``info`` but does not write them back; who saves a picture from a
notebook would lose how it was made. ``docs/spec/image-metadata.md`` says where each format has them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final
from xml.sax.saxutils import escape

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from memcard.errors import UsageError
from memcard.generation import _exif

if TYPE_CHECKING:
    from torch import Tensor

FORMATS: Final[Mapping[str, str]] = {  # ending to Pillow's name
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
}
_JPEG_QUALITY: Final = 95
_SEGMENT: Final = 65_533  # bytes in one segment of a JPEG
_XMP_BEFORE: Final = 29  # bytes before an XMP packet in its segment
_PACKET: Final = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
    '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description rdf:about="" xmlns:memcard="urn:memcard:picture:">'
    "<memcard:made>{}</memcard:made>"
    "</rdf:Description></rdf:RDF></x:xmpmeta>"
    '<?xpacket end="r"?>'
)


class Picture(Image.Image):
    """A Pillow image whose texts go into every PNG, JPEG and WebP that is saved of it.

    They are ``info["parameters"]`` and, if it is there, ``info["memcard"]``.
    """

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:  # noqa: A002
        """Save as Pillow does, with the texts unless the arguments bring their own."""
        kind = (format or _format_of(fp)).upper().replace("JPG", "JPEG")
        pairs = {k: self.info[k] for k in ("parameters", "memcard") if self.info.get(k)}
        if "parameters" in pairs and kind in FORMATS.values():
            params = {**texts_for(kind, pairs), **params}
        super().save(fp, format, **params)


def picture(pixels: Tensor) -> Picture:
    """Return an 8-bit picture of pixels in 0..1, shape [height, width, 3]."""
    image = Image.fromarray((pixels * 255).round().byte().numpy())
    image.__class__ = Picture  # adds one method; Pillow has no public way to make a subclass
    assert isinstance(image, Picture)  # noqa: S101  # for the type checker
    return image


def write_picture(
    image: Image.Image,
    file: BinaryIO,
    kind: str,
    text: str,
    facts: Mapping[str, Any],
    *,
    quality: int | None = None,
) -> None:
    """Write a picture with ``text`` as A1111's parameters and ``facts`` as our JSON.

    The same picture and texts give the same bytes.

    Args:
        image: of any mode; a JPEG loses its alpha.
        file: open for writing.
        kind: ``PNG``, ``JPEG`` or ``WEBP``.
        text: of ``infotext.write``.
        facts: JSON values.
        quality: 1..100, of JPEG and WebP. None: JPEG at 95 with full colour, WebP without loss.

    Raises:
        UsageError: the texts are longer than a JPEG can carry.
    """
    own = json.dumps(facts, sort_keys=True, ensure_ascii=False)
    params = texts_for(kind, {"parameters": text, "memcard": own})
    if kind == "JPEG":
        params |= {"quality": quality or _JPEG_QUALITY, "subsampling": 0}
    elif kind == "WEBP":
        params |= {"lossless": True} if quality is None else {"quality": quality}
    Image.Image.save(image.convert("RGB") if kind == "JPEG" else image, file, kind, **params)


def texts_for(kind: str, pairs: Mapping[str, str]) -> dict[str, Any]:
    """Return Pillow's arguments that put texts into a file of a format.

    Args:
        kind: ``PNG``, ``JPEG`` or ``WEBP``.
        pairs: ``parameters``, A1111's text, and ``memcard``, our JSON.

    Raises:
        UsageError: they are longer than a JPEG can carry.
    """
    clean = {key: _clean(text) for key, text in pairs.items()}
    if kind == "PNG":
        return {"pnginfo": texts(clean)}
    found = {"exif": b"Exif\0\0" + _exif.write(clean.get("parameters", ""))}
    if "memcard" in clean:
        ascii_only = json.dumps(json.loads(clean["memcard"]), sort_keys=True)
        found["xmp"] = _PACKET.format(escape(ascii_only)).encode()
    if kind == "JPEG":
        longest = max(len(found["exif"]), len(found.get("xmp", b"")) + _XMP_BEFORE)
        if longest > _SEGMENT:
            raise UsageError(
                f"the texts of the picture take {longest} bytes; a JPEG carries {_SEGMENT} at most. "
                "Save it as PNG or WebP, or shorten the prompt."
            )
    return found


def texts(pairs: Mapping[str, str]) -> PngInfo:
    """Return text chunks in the order of ``pairs``."""
    chunks = PngInfo()
    for key, text in pairs.items():
        # tEXt is latin-1; what is not plain goes into iTXt, which every reader of A1111's texts knows.
        if text.isascii():
            chunks.add_text(key, text)
        else:
            chunks.add_itxt(key, text)
    return chunks


def _clean(text: str) -> str:
    """Return a text that can be encoded and has no zero in it, which would end it in a chunk."""
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _format_of(fp: Any) -> str:
    """Return Pillow's name of the format that the end of a path asks for; empty if there is none."""
    name = fp if isinstance(fp, (str, os.PathLike)) else getattr(fp, "name", "")
    if not isinstance(name, (str, bytes, os.PathLike)):
        return ""  # a file that was opened by its number
    return FORMATS.get(Path(os.fsdecode(name)).suffix.lower(), "")
