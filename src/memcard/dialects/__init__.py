"""Dictionaries between the names of LDM (or original) files and those of diffusers, as data.

One file is one family. Each mapping is written once and read in both directions; no bit of a tensor
changes, so going there and back gives the same tensors. Which family a file is of is not guessed: a
dictionary fits if it knows every weight in the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from memcard.core.registry import Registry
from memcard.core.tensors import Specs
from memcard.core.views import Arrangement
from memcard.dialects._dialect import Dialect, Facts, Reading, locate, read
from memcard.dialects._link import Side
from memcard.errors import MismatchError

__all__ = ["DIALECTS", "Facts", "Side", "Translation", "components", "configs", "translate"]

DIALECTS: Registry[Dialect] = Registry("memcard.dialects")
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Translation:
    """A file in the other dialect, as a plan.

    Attributes:
        family: whose dictionary was used.
        families: all whose dictionaries fit; they give the same tensors, as for a lone VAE.
        arrangements: name to write to how it is made; for ``core.views.Rearranged``.
        components: those of the file, in the order of diffusers' pipeline.
        component_of: name in the source to component.
        left_out: names in the source that are no weights: counters, schedules, EMA copies.
    """

    family: str
    families: tuple[str, ...]
    arrangements: Mapping[str, Arrangement]
    components: tuple[str, ...]
    component_of: Mapping[str, str]
    left_out: tuple[str, ...]


def translate(specs: Specs, to: Side, *, family: str | None = None) -> Translation:
    """Plan a file's tensors in the dialect ``to``; from names and shapes alone.

    Components that have it already keep their tensors.

    Args:
        specs: the file.
        to: ``ldm`` or ``diffusers``.
        family: name of the dictionary; None tries all of them.

    Raises:
        MismatchError: no dictionary knows all weights of the file, or two that do disagree.
    """
    names = [family] if family else list(DIALECTS)
    readings = {name: read(DIALECTS[name], specs, to) for name in names}
    fits = {name: r for name, r in readings.items() if r.places and not r.faults}
    if not fits:
        raise MismatchError(_no_fit(readings, to))
    first, *others = fits
    if any(fits[name].arrangements != fits[first].arrangements for name in others):
        raise MismatchError(
            f"the dictionaries of {', '.join(fits)} all fit this file and disagree. Convert a whole "
            "checkpoint, or without --dialect."
        )
    found = fits[first]
    return Translation(
        first,
        tuple(fits),
        found.arrangements,
        tuple(place.component.name for place in found.places),
        found.component_of,
        found.left_out,
    )


def configs(specs: Specs, family: str, facts: Facts, *, whole: bool = False) -> Mapping[str, str]:
    """Return the JSON files of a diffusers folder for a file of either dialect, by their path.

    Args:
        specs: the file.
        family: name of the dictionary.
        facts: what the file says about itself.
        whole: a file that is one component without prefix is a part of a whole folder; else it gets
            the one ``config.json`` of its own.
    """
    dialect = DIALECTS[family]
    sides: dict[Side, Reading] = {s: read(dialect, specs, s) for s in ("ldm", "diffusers")}
    parts: dict[str, dict[Side, Specs]] = {}
    bare = [place for place in sides["ldm"].places if place.prefix == ""]
    lone = len(sides["ldm"].places) == len(bare) == 1
    for place in sides["ldm"].places:
        component = place.component
        parts[component.name] = {
            side: _bare(reading.arrangements, "" if lone else component.prefixes(side)[0])
            for side, reading in sides.items()
        }
    made = dialect.configs(parts, facts)
    if lone and not whole:
        made = {"config.json": made[f"{bare[0].component.name}/config.json"]}
    return {path: json.dumps(config, indent=2) + "\n" for path, config in made.items()}


def _bare(arrangements: Mapping[str, Arrangement], prefix: str) -> Specs:
    return {n[len(prefix) :]: a.spec for n, a in arrangements.items() if n.startswith(prefix)}


def components(specs: Specs) -> Mapping[str, str]:
    """Return the component of each tensor, by the family that knows most of them; {} if none does."""
    best: dict[str, str] = {}
    for dialect in DIALECTS.values():
        places = locate(dialect, specs)
        found = {name: place.component.name for place in places for name in place.names.values()}
        best = found if len(found) > len(best) else best
    return best


def _no_fit(readings: Mapping[str, Reading], to: Side) -> str:
    """Tell of the dictionary that came nearest."""
    known = ", ".join(dialect.title for dialect in DIALECTS.values())
    there = {name: r for name, r in readings.items() if r.places}
    if not there:
        return (
            f"the names of this file are in no dictionary, so they cannot become {to} names. "
            f"There are: {known}. Convert it without --dialect."
        )
    name = min(there, key=lambda n: len(there[n].faults))
    faults = there[name].faults
    more = f" and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
    return (
        f"the dictionary of {DIALECTS[name].title} comes nearest and does not fit: "
        f"{'; '.join(faults[:_SHOWN])}{more}. Leave these tensors out (--only, --without), or "
        "convert without --dialect."
    )
