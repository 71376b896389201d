"""Names of checkpoints, what they mean now and meant before, and how a user's words find one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from memcard.errors import CorruptError, MismatchError, NotFoundError, UsageError
from memcard.store.canonical import Fields, read_object, sealed
from memcard.store.layout import Layout
from memcard.store.writer import Writer

VERSION: Final = 1
FEWEST: Final = 8  # hex digits that name a checkpoint
_MOST: Final = 200  # characters of a name
_MOST_QUOTED: Final = 240  # bytes; file systems allow 255, and .json comes behind
_PLAIN: Final = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789._-")
_HEX: Final = re.compile(r"[0-9a-f]+")
_SHOWN: Final = 10


@dataclass(frozen=True, slots=True)
class Version:
    """What a name means, or meant.

    Attributes:
        manifest: id of the manifest.
        digests: by which others know it; see ``Manifest``.
        size: bytes of all files.
        origin: what the file was called when it was added.
        at: when the name came to mean this.
        format, kind, architecture: as in the manifest; here too, so that listing reads names only.
    """

    manifest: str
    digests: Mapping[str, str]
    size: int
    origin: str
    at: str
    format: str
    kind: str = "unknown"
    architecture: str | None = None

    @property
    def sha256(self) -> str:
        """The digest by which people know it."""
        return self.digests["sha256"]

    def begins_with(self, prefix: str) -> bool:
        """Whether one of its digests, or its manifest's id, begins so."""
        return any(d.startswith(prefix) for d in (*self.digests.values(), self.manifest))


@dataclass(frozen=True, slots=True)
class Ref:
    """A name with its versions; ``history`` has the newest first."""

    name: str
    version: Version
    history: tuple[Version, ...] = ()

    @property
    def versions(self) -> tuple[Version, ...]:
        """All versions, the present one first."""
        return (self.version, *self.history)

    def moved_to(self, version: Version) -> Ref:
        """Return the name with a new meaning; the old one goes to the history.

        The same bytes under a new manifest (a newer memcard knows more of them) are no new meaning.
        """
        if version.manifest == self.version.manifest:
            return self
        if version.sha256 == self.version.sha256:
            version = replace(version, at=self.version.at, origin=self.version.origin)
        old = tuple(v for v in self.versions if v.sha256 != version.sha256)
        return replace(self, version=version, history=old)

    def to_bytes(self) -> bytes:
        """Return the canonical JSON."""
        return sealed(
            {
                "ref": VERSION,
                "name": self.name,
                "manifest": self.version.manifest,
                "version": _version_json(self.version),
                "history": [_version_json(version) for version in self.history],
            }
        )


def check_name(name: str) -> str:
    """Return the name in the form in which it is kept.

    Raises:
        UsageError: it cannot be one; says why.
    """
    name = unicodedata.normalize("NFC", name)
    fault = None
    if not 1 <= len(name) <= _MOST or len(quoted(name)) > _MOST_QUOTED:
        fault = f"names have 1 to {_MOST} characters"
    elif not name.isprintable() or name != name.strip():
        fault = "names have no control characters, and no space at an end"
    elif set(name) & set("@:\\"):
        fault = "names have no @, no : and no \\"
    elif name.casefold() == "starter" or name.casefold().startswith("starter/"):
        fault = "that is the model that comes with memcard"
    if fault is not None:
        raise UsageError(f"{name[:80]!r} cannot be a name: {fault}. Choose another with --name.")
    return name


def default_name(origin: str) -> str:
    """Make a lawful name of a file's."""
    text = unicodedata.normalize("NFC", origin)
    text = "".join(c if c.isprintable() and c not in "@:\\/" else "-" for c in text).strip()
    while text and len(quoted(text)) > _MOST_QUOTED - 8:  # room for -2
        text = text[:-1].strip()
    if not text or text.casefold() == "starter":
        text = f"{text or 'checkpoint'}-1"
    return check_name(text[: _MOST - 8].strip())


def quoted(name: str) -> str:
    """Return the file name of a name, without ``.json``; equal for names that differ in case only."""
    raw = unicodedata.normalize("NFC", name).casefold().encode("utf-8", "surrogatepass")
    text = "".join(chr(b) if b in _PLAIN else f"%{b:02X}" for b in raw)
    return "%2E" + text[1:] if text.startswith(".") else text


def path_of(layout: Layout, name: str) -> Path:
    """Return the file of a name."""
    return layout.refs / f"{quoted(name)}.json"


def get(layout: Layout, name: str) -> Ref | None:
    """Return what is known under a name, whatever the case of its letters; None if nothing.

    Raises:
        CorruptError: its file is damaged.
    """
    if not 1 <= len(name) <= _MOST:
        return None
    try:
        return _own(path_of(layout, name))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError:  # a name too long for the file system
        if len(quoted(name)) > _MOST_QUOTED:
            return None
        raise


def read(path: Path) -> Ref:
    """Return the name that a file holds.

    Raises:
        FileNotFoundError: there is no such file.
        CorruptError: it is damaged.
    """
    fields = Fields(read_object(path), str(path))
    history = tuple(_version(found, str(path)) for found in fields.list("history"))
    version = _version(fields.mapping("version"), str(path))
    if len({v.manifest for v in (version, *history)}) != len(history) + 1:
        raise CorruptError(f"{path}: lists one version twice.")
    try:
        name = check_name(fields.text("name"))
    except UsageError as error:
        raise CorruptError(f"{path}: {error}") from None
    return Ref(name, version, history)


def _own(path: Path) -> Ref:
    """Return the name that a file of the shelf holds, which must be that file's."""
    ref = read(path)
    if f"{quoted(ref.name)}.json" != path.name:
        raise CorruptError(
            f"{path}: holds the name {ref.name[:80]!r}, which is not the one it is called by. Put it back "
            "from a backup; see `memcard doctor`."
        )
    return ref


def put(writer: Writer, ref: Ref) -> None:
    """Write a name; call it under the lock."""
    writer.write(path_of(writer.layout, ref.name), ref.to_bytes())


def every(layout: Layout, faults: list[CorruptError] | None = None) -> Iterator[Ref]:
    """Yield all names, in the order of their files.

    Args:
        layout: of the library.
        faults: takes what is damaged; None: the first damaged file ends it.

    Raises:
        CorruptError: a file is damaged.
    """
    for path in sorted(layout.refs.glob("*.json")):
        try:
            yield _own(path)
        except FileNotFoundError:
            continue  # removed since it was listed
        except CorruptError as error:
            if faults is None:
                raise
            faults.append(error)


def find(layout: Layout, text: str) -> tuple[Ref, Version]:
    """Return what a user's words mean: a name, ``name@prefix``, or the first digits of a digest.

    Raises:
        NotFoundError: nothing has this name; names that are near are listed.
        MismatchError: several have; they are listed.
        UsageError: what follows the @ is no beginning of a digest.
    """
    if (found := search(layout, text)) is not None:
        return found
    name, at, _ = text.rpartition("@")
    if at and get(layout, name) is not None:
        raise NotFoundError(f"{text}: {name} has no version with a digest that begins so.")
    digits = ", and no digest that begins so" if is_prefix(text) else ""
    near = _near(layout, name or text)
    raise NotFoundError(f"{text}: the library has no such name{digits}.{near}")


def search(layout: Layout, text: str) -> tuple[Ref, Version] | None:
    """Return what a user's words mean, or None if that is nothing; errors as ``find``."""
    name, at, prefix = text.rpartition("@")
    if at:
        ref = get(layout, name)
        if ref is None:
            return None
        if not is_prefix(prefix):
            raise UsageError(f"{text}: after the @ come {FEWEST} or more hex digits of a digest.")
        return _one(_with_digest([ref], prefix.lower()), text)
    if (ref := get(layout, text)) is not None:
        return ref, ref.version
    if is_prefix(text):
        return _one(_with_digest(every(layout, []), text.lower()), text)
    return None


def is_prefix(text: str) -> bool:
    """Whether a text may be the first digits of a digest."""
    return len(text) >= FEWEST and _HEX.fullmatch(text.lower()) is not None


def _with_digest(refs: Iterable[Ref], prefix: str) -> list[tuple[Ref, Version]]:
    """Find versions by digest; one that some name means now hides the same one in a history."""
    pairs = [(ref, v) for ref in refs for v in ref.versions if v.begins_with(prefix)]
    present = [(ref, v) for ref, v in pairs if v is ref.version]
    seen = {v.sha256 for _, v in present}
    return present + [(ref, v) for ref, v in pairs if v.sha256 not in seen]


def _one(found: Sequence[tuple[Ref, Version]], text: str) -> tuple[Ref, Version] | None:
    if len({version.sha256 for _, version in found}) > 1:
        listed = "; ".join(f"{ref.name} is {v.sha256[:16]}" for ref, v in found[:_SHOWN])
        more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        raise MismatchError(f"{text}: several fit: {listed}{more}. Give more digits, or a name.")
    return found[0] if found else None


def _near(layout: Layout, text: str) -> str:
    from difflib import get_close_matches

    names = {ref.name.casefold(): ref.name for ref in every(layout, [])}
    near = get_close_matches(text.casefold(), names, n=3)
    hint = " or ".join(names[n] for n in near)
    return f" Did you mean {hint}?" if near else " `memcard ls` lists the names."


def _version_json(version: Version) -> dict[str, Any]:
    return {
        "manifest": version.manifest,
        "digests": dict(version.digests),
        "size": version.size,
        "origin": version.origin,
        "at": version.at,
        "format": version.format,
        "kind": version.kind,
        "architecture": version.architecture,
    }


def _version(found: object, where: str) -> Version:
    fields = Fields(found, where)
    digests = fields.text_mapping("digests")
    if "sha256" not in digests:
        raise CorruptError(f"{where}: states no SHA-256.")
    origin = fields.text("origin", "")
    if set(origin) & set("/\0") or origin in (".", ".."):  # an export is called by it
        raise CorruptError(f"{where}: {origin[:80]!r} is no name of a file.")
    return Version(
        fields.digest("manifest"),
        digests,
        fields.number("size"),
        origin,
        fields.text("at", ""),
        fields.text("format", ""),
        fields.text("kind", "unknown"),
        fields.maybe_text("architecture"),
    )
