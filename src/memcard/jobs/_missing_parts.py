"""Parts a checkpoint does not bring along: those the user names, then what the library holds.

Most files of Flux.1 and Stable Diffusion 3 are a bare transformer. Its text encoders and its VAE are the same
for all of them, so one copy in the library serves them all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from memcard.core.checkpoint import Checkpoint
from memcard.dialects import DIALECTS
from memcard.errors import MemcardError, MismatchError, UsageError
from memcard.jobs._part_sources import sources_of
from memcard.jobs.ls import Entry, ls
from memcard.jobs.resolve import label, resolve
from memcard.store.layout import Layout, default_home, exists

if TYPE_CHECKING:
    from memcard.generation.parts import Assembly, Part

_MOST: Final = 60  # headers of the library that are looked at
# Whose whole checkpoints hold the same text encoders.
_DONORS: Final = {
    "sd3": ("sd3", "flux", "sdxl"),
    "flux": ("flux", "sd3"),
    "sdxl_refiner": ("sdxl_refiner", "sdxl"),
}
# VAEs of the same shapes for other latents: what a name must not say, and what speaks for it.
_OTHER_VAE: Final = {
    "flux": ("sd-?_?3|stable.?diffusion.?3", "flux|^ae$"),
    "sd3": ("flux|^ae$", "sd-?_?3|stable.?diffusion.?3"),
    "sd1": ("xl", "sd-?_?v?1|mse|ema"),
    "sd2": ("xl", "sd-?_?v?[12]|mse|ema"),
    "sdxl": ("mse|sd-?_?v?1", "xl"),
    "sdxl_refiner": ("mse|sd-?_?v?1", "xl"),
}


def complete(
    assembly: Assembly,
    refs: Sequence[str | Path] = (),
    *,
    library: bool = True,
    t5: bool = True,
) -> tuple[Assembly, tuple[Checkpoint, ...], tuple[str, ...]]:
    """Return the assembly with the parts it lacked.

    Args:
        assembly: of the main file.
        refs: text encoders, or files that hold some, by path or name; they stand in for those of the
            main file. A VAE among them is taken if there is none.
        library: look there for what is still missing, the newest first; also for what the model
            can do without but is better with.
        t5: False: leave out a T5 that the model can do without, also one of its own.

    Returns:
        The assembly, the checkpoints opened for it (keep them open while the pipeline lives), and where
        each part was found, one sentence each.

    Raises:
        UsageError: the model cannot do without its T5.
        MismatchError: a file of ``refs`` holds nothing that fits, or parts are missing; says which, what
            they are usually called and where they come from.
    """
    opened: list[Checkpoint] = []
    notes: list[str] = []
    try:
        for ref in refs:
            opened.append(resolve(ref))
            assembly = _with_named(assembly, opened[-1], label(str(ref)))
        if not t5:
            assembly = _bare(assembly)
        if library and (_lacking(assembly) if t5 else assembly.missing):
            assembly = _from_library(assembly, opened, notes, t5=t5)
        _refuse_missing(assembly, library=library)
    except BaseException:
        for checkpoint in opened:
            checkpoint.close()
        raise
    if t5 and (note := _without(assembly)):
        notes.append(note)
    return assembly, tuple(opened), tuple(notes)


def _with_named(assembly: Assembly, checkpoint: Checkpoint, name: str) -> Assembly:
    from memcard.generation.lone_parts import encoders, lone_parts

    found = lone_parts(checkpoint, assembly, name)
    vae = found.pop("vae", None)
    if not found and vae is None:
        held = ", ".join(encoders(checkpoint)) or "no text encoder"
        wanted = ", ".join(source.what for source in sources_of(assembly.family).values())
        raise MismatchError(
            f"{name}: holds {held}, which does not fit {_title(assembly)}. It reads {wanted}; choose a "
            "file of one of these, or leave --text-encoder out."
        )
    assembly = assembly.with_parts(found.values(), replacing=True)
    return assembly if vae is None else assembly.with_parts((vae,))


def _lacking(assembly: Assembly) -> tuple[str, ...]:
    """Return the components that nothing gave, those that it can do without last."""
    optional = (n for n in assembly.engine.optional if n not in assembly.parts)
    return (*assembly.missing, *optional)


def _bare(assembly: Assembly) -> Assembly:
    """Return the assembly without what it can do without."""
    if not assembly.engine.optional:
        raise UsageError(
            f"{_title(assembly)} cannot do without any of its text encoders. Leave --no-t5 out."
        )
    kept = {n: part for n, part in assembly.parts.items() if n not in assembly.engine.optional}
    return replace(assembly, parts=kept)


def _from_library(
    assembly: Assembly, opened: list[Checkpoint], notes: list[str], *, t5: bool = True
) -> Assembly:
    from memcard.generation.lone_parts import lone_parts

    home = Layout(default_home())
    if not exists(home):
        return assembly
    for count, (entry, own) in enumerate(_candidates(home, assembly), 1):
        lacking = _lacking(assembly) if t5 else assembly.missing
        if not lacking or count > _MOST:
            break
        try:
            checkpoint = resolve(entry.name)
        except (MemcardError, OSError):
            continue  # what cannot be read now gives nothing; `memcard verify` is for that
        try:
            found = lone_parts(checkpoint, assembly, entry.name)
            taken = [found[n] for n in lacking if n in found and _may(n, entry, own)]
        except MemcardError:
            taken = []
        if not taken:
            checkpoint.close()
            continue
        opened.append(checkpoint)
        notes += [_taken(assembly, part, entry, own=own) for part in taken]
        assembly = assembly.with_parts(taken)
    return assembly


def _candidates(home: Layout, assembly: Assembly) -> Iterator[tuple[Entry, bool]]:
    """Yield what may hold parts: files of nothing else first, then whole checkpoints, newest first.

    With each, whether it is a checkpoint of this very family.
    """
    lacking = _lacking(assembly)

    def of(kind: str, family: str | None = None) -> Iterator[Entry]:
        found = ls(home, kind=kind, family=family, sort="added", descending=True, look=True)
        return (entry for entry in found.entries if entry.state != "missing")

    if any(name != "vae" for name in lacking):
        yield from ((entry, False) for entry in of("text_encoder"))
    if "vae" in lacking:
        yield from ((entry, False) for entry in _vaes(list(of("vae")), assembly.family))
    for family in _DONORS.get(assembly.family, (assembly.family,)):
        yield from ((entry, family == assembly.family) for entry in of("checkpoint", family))


def _vaes(entries: Sequence[Entry], family: str) -> list[Entry]:
    """Return VAEs that may be of this family, those that say so first."""
    wrong, right = _OTHER_VAE.get(family, ("(?!)", "(?!)"))
    fitting = [e for e in entries if not re.search(wrong, _said(e), re.IGNORECASE)]
    return sorted(fitting, key=lambda e: not re.search(right, _said(e), re.IGNORECASE))


def _said(entry: Entry) -> str:
    return f"{Path(entry.name).name} {entry.title}".strip()


def _may(component: str, entry: Entry, own: bool) -> bool:
    """Whether a part of this library entry is the right one: a VAE of another family is not."""
    return component != "vae" or own or entry.kind == "vae"


def _taken(assembly: Assembly, part: Part, entry: Entry, *, own: bool) -> str:
    source = sources_of(assembly.family).get(part.name)
    note = f"{source.what if source else part.name} from {entry.name!r} of the library."
    note = note[0].upper() + note[1:]
    right = _OTHER_VAE.get(assembly.family, ("", ""))[1]
    if (
        part.name == "vae"
        and not own
        and right
        and not re.search(right, _said(entry), re.IGNORECASE)
    ):
        note += (
            " No shape tells which family it is for; if colours are wrong, name another with --vae."
        )
    return note  # fmt: skip


def _without(assembly: Assembly) -> str:
    """Say which part is done without, if one is."""
    gone = [name for name in assembly.engine.optional if name not in assembly.parts]
    what = [
        sources_of(assembly.family)[name].what
        for name in gone
        if name in sources_of(assembly.family)
    ]
    if not what:
        return ""
    return f"Without {', '.join(what)}: long descriptions and lettering suffer. Name one with --text-encoder, or keep one in the library."


def _refuse_missing(assembly: Assembly, *, library: bool) -> None:
    if not assembly.missing:
        return
    sources = sources_of(assembly.family)
    there = ", ".join(assembly.parts) or "nothing"
    main = assembly.parts.get("transformer") or assembly.parts.get("unet")
    name_of_file = main.label if main else "the checkpoint"
    missing = []
    for name in assembly.missing:
        option = "--vae" if name == "vae" else "--text-encoder"
        source = sources.get(name)
        missing.append(
            f"{name} ({source.what}; usually {source.files}, from {source.place}; name it with {option})"
            if source
            else f"{name} (name it with {option})"
        )
    looked = " and the library has none that fits" if library else ""
    raise MismatchError(
        f"{name_of_file}: a part of a {_title(assembly)} checkpoint. It holds {there}{looked}. It lacks "
        f"{'; '.join(missing)}. What is added to the library once (`memcard add FILE`) is found by itself."
    )


def _title(assembly: Assembly) -> str:
    return DIALECTS[assembly.family].title
