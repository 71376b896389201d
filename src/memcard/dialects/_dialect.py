"""What a family's dictionary is: its components, where they lie on each side, and their links."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from memcard.core.tensors import Spec, Specs
from memcard.core.views import Arrangement, Piece
from memcard.dialects._link import Dictionary, Link, Side

Linker: TypeAlias = Callable[[Specs, Side], Sequence[Link] | None]

# No weights: counters, schedules and what training leaves behind. Every loader makes them anew.
_IDLE = re.compile(
    r"(?:.*\.)?(?:position_ids|logit_scale|num_updates|decay|sigmas|log_sigmas|logvar|scale_factor)"
    r"|(?:alphas|betas|sqrt_|log_one_minus_|posterior_|lvlb_|logvar).*"
    r"|(?:model|denoiser|first_stage_model|cond_stage_model)\.(?:alphas|betas|sqrt_).*"
    r"|first_stage_model\.loss\..*|model_ema\..*|v_pred|ztsnr|edm_mean|edm_std|edm_vpred.*"
)


@dataclass(frozen=True, slots=True)
class Component:
    """One part of a family on both sides.

    Attributes:
        name: of its folder in diffusers: unet, transformer, vae, text_encoder…
        ldm: prefixes in single files, the first is the one to write; "" for a file of its own.
        diffusers: the same for diffusers names.
        links: given its tensors under bare names and the side they are of, the links; None if this
            is not such a component.
        spellings: older names to usual ones, as (pattern, replacement) per side.
        idle: names under its prefixes that no other program needs, beside the usual ones.
    """

    name: str
    ldm: tuple[str, ...]
    diffusers: tuple[str, ...]
    links: Linker
    spellings: Mapping[Side, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    idle: str = r"(?!)"

    def prefixes(self, side: Side) -> tuple[str, ...]:
        """Return where it may lie on one side."""
        return self.ldm if side == "ldm" else self.diffusers


@dataclass(frozen=True, slots=True)
class Place:
    """A component found in a file."""

    component: Component
    side: Side
    prefix: str
    names: Mapping[str, str]  # its usual bare name to the name in the file
    links: tuple[Link, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file says about itself beside its weights; None and False where nothing tells."""

    prediction: str | None = None
    zero_snr: bool = False


# The tensors of each component under bare names, on both sides.
Parts: TypeAlias = Mapping[str, Mapping[Side, Specs]]


@dataclass(frozen=True, slots=True)
class Dialect:
    """The dictionary of one family between LDM (or original) names and diffusers names.

    Attributes:
        title: of the family.
        source: where the correspondence is taken from.
        components: in the order of diffusers' pipeline, the denoiser first.
        configs: given the parts of a file and what it says, the JSON files of a diffusers folder by
            their path in it.
        tokenizers: folder to the name of a packaged tokenizer.
    """

    title: str
    source: str
    components: tuple[Component, ...]
    configs: Callable[[Parts, Facts], Mapping[str, Mapping[str, Any]]]
    tokenizers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reading:
    """A file read by one family's dictionary.

    Attributes:
        places: the components found.
        arrangements: the tensors of the target side, under the names to write.
        component_of: name in the source to component.
        left_out: names that are no weights.
        faults: why this dictionary does not fit; empty if it does.
    """

    places: tuple[Place, ...]
    arrangements: Mapping[str, Arrangement]
    component_of: Mapping[str, str]
    left_out: tuple[str, ...]
    faults: tuple[str, ...]


def locate(dialect: Dialect, specs: Specs) -> tuple[Place, ...]:
    """Find the components of a file, on whichever side each is."""
    found: list[Place] = []
    taken: set[str] = set()
    for component in dialect.components:
        place = _find(component, specs, taken)
        if place is not None:
            taken.update(place.names.values())
            found.append(place)
    return tuple(found)


def read(dialect: Dialect, specs: Specs, target: Side) -> Reading:
    """Translate a file to ``target``; components that are there already only change their prefix."""
    places = locate(dialect, specs)
    made: dict[str, Arrangement] = {}
    component_of: dict[str, str] = {}
    idle, faults = list[str](), list[str]()
    for place in places:
        part = {bare: specs[name] for bare, name in place.names.items()}
        found, unknown, misfits = _translate(place, part, target)
        bare_file = place.prefix == "" and len(places) == 1
        prefix = "" if bare_file else place.component.prefixes(target)[0]
        made.update({prefix + name: _named(a, place.names) for name, a in found.items()})
        component_of.update(dict.fromkeys(place.names.values(), place.component.name))
        for name in unknown:
            harmless = _IDLE.fullmatch(name) or re.fullmatch(place.component.idle, name)
            (idle if harmless else faults).append(
                place.names[name] if harmless else f"{place.names[name]!r} has no counterpart"
            )
        faults += misfits
    for name in specs:
        if name not in component_of:
            known = _IDLE.fullmatch(name)
            (idle if known else faults).append(
                name if known else f"{name!r} belongs to no component"
            )
    return Reading(places, made, component_of, tuple(idle), tuple(faults))


def _translate(
    place: Place, part: Specs, target: Side
) -> tuple[Mapping[str, Arrangement], list[str], list[str]]:
    """Translate there, and back again where the component is on the target side already."""
    words = Dictionary(place.links)
    found, unknown, faults = words.translate(part, place.side)
    if place.side != target:
        return found, unknown, faults
    kept = {piece.name for a in found.values() for piece in a.pieces}
    return {name: _whole(name, part[name]) for name in part if name in kept}, unknown, faults


def _whole(name: str, spec: Spec) -> Arrangement:
    return Arrangement(spec, (Piece(name, 0, spec.nbytes),))


def _named(arrangement: Arrangement, names: Mapping[str, str]) -> Arrangement:
    """Let the pieces carry the names of the file."""
    pieces = tuple(replace(piece, name=names[piece.name]) for piece in arrangement.pieces)
    return replace(arrangement, pieces=pieces)


def _find(component: Component, specs: Specs, taken: set[str]) -> Place | None:
    for side in ("ldm", "diffusers"):
        spellings = component.spellings.get(side, ())
        for prefix in component.prefixes(side):
            names = {
                _spell(name[len(prefix) :], spellings): name
                for name in specs
                if name.startswith(prefix) and name not in taken
            }
            links = component.links({bare: specs[n] for bare, n in names.items()}, side)
            if links is None:
                continue
            if prefix == "":
                names = _known(names, links, side, component)
            return Place(component, side, prefix, names, tuple(links))
    return None


def _known(
    names: Mapping[str, str], links: Sequence[Link], side: Side, component: Component
) -> dict[str, str]:
    """Keep the names this component knows: without a prefix others may lie beside it."""
    words = Dictionary(links)
    return {
        bare: name
        for bare, name in names.items()
        if words.knows(bare, side) or re.fullmatch(component.idle, bare)
    }


def _spell(name: str, spellings: Sequence[tuple[str, str]]) -> str:
    for pattern, text in spellings:
        name = re.sub(pattern, text, name)
    return name
