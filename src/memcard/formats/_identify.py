"""Say what a file is that no format opens, and what to do about it."""

from __future__ import annotations

_TAR_AT = 257
TORCH_TAR = (b"storages", b"tensors", b"pickle")  # members of torch's first format
_SHORT = 16

_LFS = (
    "is a Git LFS pointer, a few lines that stand for the real file. Run 'git lfs pull' in its "
    "repository, or download the file itself."
)
_STARTS: tuple[tuple[bytes, str], ...] = (
    (b"version https://git-lfs", _LFS),
    (b"\x1f\x8b", "is compressed with gzip. Unpack it first."),
    (b"(\xb5/\xfd", "is compressed with zstd. Unpack it first."),
    (b"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive. Unpack it first."),
    (b"Rar!", "is a RAR archive. Unpack it first."),
    (b"PK\x05\x06", "is an empty zip archive. Get the file again from its source."),
    (b"\x89HDF\r\n", "is an HDF5 file (Keras). Convert it with the tool that made it."),
    (b"\x93NUMPY", "is one numpy array. Save it with safetensors.numpy.save_file."),
    (b"\x89PNG", "is a picture (PNG), not a checkpoint. See `memcard picture`."),
    (b"\xff\xd8\xff", "is a picture (JPEG), not a checkpoint. See `memcard picture`."),
    (b"RIFF", "is a WebP picture or a sound, not a checkpoint. See `memcard picture`."),
    (b"%PDF", "is a PDF document, not a checkpoint."),
    (b"\x7fELF", "is a program for Linux, not a checkpoint. Do not run it."),
    (b"MZ", "is a program for Windows, not a checkpoint. Do not run it."),
)

_RESAVE = (
    "Load it with torch.load(weights_only=True) where you trust it, and save its state dict with "
    "safetensors.torch.save_file."
)


def describe(head: bytes) -> str:
    """Return one or two sentences: what the content looks like, and the remedy."""
    if not head:
        return "is empty. The download did not start or was cut off; get it again."
    if not head.strip(b"\0"):
        return "begins with zeros only. The download was probably not finished; get it again."
    for start, text in _STARTS:
        if head.startswith(start):
            return text
    if head[_TAR_AT : _TAR_AT + 5] == b"ustar":
        if head.rstrip(b"\0")[:100].split(b"\0")[0] in TORCH_TAR:
            return (
                "is a checkpoint of torch before 0.1.10 (2017), a tar archive. Load it with torch 1.x where "
                "you trust it, and save its state dict with safetensors.torch.save_file."
            )
        return "is a tar archive, a pack of files. Unpack it first."
    if head[:1] == b"\x80" and len(head) > 1 and head[1] <= 5:
        return f"is a bare pickle file, which no checkpoint format is. {_RESAVE}"
    return (
        _text(head)
        or f"is of no format known here (it begins with {head[:8].hex(' ')}). Check where it is from."
    )


def _text(head: bytes) -> str | None:
    start = head[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return (
            "is a web page, not a checkpoint: the site sent its login or error page. Open the "
            "address in a browser, log in or accept the license, and download again."
        )
    if start.startswith((b"{", b"[")):
        return (
            f"is JSON text (it begins with {head[:24].decode('utf-8', 'replace')!r}), not a checkpoint; "
            "perhaps the index or config that belongs to one."
        )
    if len(head) < _SHORT:
        return f"has only {len(head)} bytes. The download was cut off; get it again."
    return None
