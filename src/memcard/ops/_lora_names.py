"""From the name a LoRA gives a module to the rows of a base that hold its weight.

Names are brought to one form, words joined by ``_`` with the component in front:
``unet_down_blocks_0_attentions_0_proj_in``; every denoiser counts as ``unet``. A base that one of
the dictionaries knows is listed under its LDM (or original) and its diffusers names, whichever it
has itself: one name may then mean some rows of a fused tensor, or the rows of several tensors.

Sources: kohya sd-scripts networks/lora.py, diffusers loaders/lora_conversion_utils.py, PEFT
utils/save_and_load.py (all Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from memcard.core.tensors import Specs
from memcard.core.views import Arrangement
from memcard.dialects import DIALECTS
from memcard.dialects._dialect import Place as Found
from memcard.dialects._dialect import locate
from memcard.dialects._link import Dictionary, Side

_PREFIXES = (
    ("lora_unet_", "unet_"),
    ("lora_transformer_", "unet_"),
    ("lora_te1_", "text_encoder_"),
    ("lora_te2_", "text_encoder_2_"),
    ("lora_te3_", "text_encoder_3_"),
    ("lora_te_", "text_encoder_"),
    ("lycoris_", "unet_"),
    ("diffusion_model.", "unet_"),
    ("model.diffusion_model.", "unet_"),
    ("transformer.", "unet_"),
    ("cond_stage_model.transformer.", "text_encoder_"),
    ("text_encoders.clip_l.transformer.", "text_encoder_"),
    ("text_encoders.clip_g.transformer.", "text_encoder_2_"),
    ("text_encoders.t5xxl.transformer.", "text_encoder_3_"),
    ("first_stage_model.", "vae_"),
)
_WRAPPERS = (
    "base_model.model.",
    "unet.base_model.model.",
    "transformer.base_model.model.",
    "text_encoder.base_model.model.",
    "text_encoder_2.base_model.model.",
    "text_encoder_3.base_model.model.",
)
_LEAVES = ("weight", "bias")
_SIDES: tuple[Side, ...] = ("ldm", "diffusers")


@dataclass(frozen=True, slots=True)
class Run:
    """Rows ``first`` onwards of a module: ``rows`` rows of a tensor of the base, from ``at`` on."""

    tensor: str
    at: int
    rows: int
    first: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where the weight or bias of a module lies.

    Attributes:
        shape: of the module's tensor; a fused tensor is longer.
        runs: its rows, in order.
    """

    shape: tuple[int, ...]
    runs: tuple[Run, ...]

    @property
    def rows(self) -> int:
        """Number of outputs of the module."""
        return self.shape[0]


def canonical(module: str) -> str:
    """Return the one form of a module's name."""
    for wrapper in _WRAPPERS:
        if module.startswith(wrapper):
            module = wrapper.removesuffix("base_model.model.") + module.removeprefix(wrapper)
            break
    module = module.replace(".processor.", ".")
    for prefix, component in _PREFIXES:
        if module.startswith(prefix):
            return _short(component + _words(module.removeprefix(prefix)))
    return _short(_words(module))


def component_of(module: str) -> str:
    """Return the component a module's name states; ``unknown`` if it states none."""
    name = canonical(module)
    known = ("unet", "text_encoder_3", "text_encoder_2", "text_encoder", "vae")
    return next((c for c in known if name.startswith(f"{c}_")), "unknown")


def aliases(base: Specs) -> dict[str, Place]:
    """List every name a LoRA may use, with ``.weight`` or ``.bias``, and what it means in the base.

    Names that would mean two things are left out: better to refuse than to guess.
    """
    known = dict(_known(base))
    exact: dict[str, Place] = {}
    loose: dict[str, dict[Place, None]] = {}
    for name, place in _whole_tensors(base):
        stem, _, leaf = name.rpartition(".")
        exact.setdefault(f"{canonical(stem)}.{leaf}", place)
    exact |= known
    for key, place in exact.items():
        for other in _also(key, whole=not known):
            loose.setdefault(other, {})[place] = None
    single = {alias: next(iter(found)) for alias, found in loose.items() if len(found) == 1}
    return single | exact


def find(module: str, leaf: str, names: Mapping[str, Place]) -> Place | None:
    """Return where the ``weight`` or ``bias`` of a module lies; None if there is none."""
    key = canonical(module)
    # Old attention processors call the output projection to_out, the model to_out.0.
    keys = [key, f"{key}_0"]
    if key.startswith("text_encoder_3_"):  # kohya's T5 is always the third, diffusers' Flux has two
        keys.append(key.replace("text_encoder_3_", "text_encoder_2_", 1))
    return next((names[f"{k}.{leaf}"] for k in keys if f"{k}.{leaf}" in names), None)


def _whole_tensors(base: Specs) -> Iterator[tuple[str, Place]]:
    for name, spec in base.items():
        if name.rpartition(".")[2] in _LEAVES and spec.shape:
            yield name, Place(spec.shape, (Run(name, 0, spec.shape[0], 0),))


def _known(base: Specs) -> Iterator[tuple[str, Place]]:
    """Yield names by the dictionary that knows most of the base, on both of its sides."""
    for place in _best(base)[1]:
        component = "unet" if place.component.name == "transformer" else place.component.name
        for side in _SIDES:
            for bare, where in _side(place, base, side):
                stem, _, leaf = bare.rpartition(".")
                if leaf in _LEAVES:
                    yield f"{_short(f'{component}_{_words(stem)}')}.{leaf}", where


def _best(base: Specs) -> tuple[str, tuple[Found, ...]]:
    """Return the dictionary that knows most of a base, and the components it finds there."""
    best, found = "", tuple[Found, ...]()
    for name, dialect in DIALECTS.items():
        places = locate(dialect, base)
        if sum(len(p.names) for p in places) > sum(len(p.names) for p in found):
            best, found = name, places
    return best, found


def _side(place: Found, base: Specs, side: Side) -> Iterator[tuple[str, Place]]:
    """Yield the bare names of a component on one side, and where their rows lie in the base."""
    part = {bare: base[name] for bare, name in place.names.items()}
    if side == place.side:
        for bare, spec in part.items():
            if spec.shape:
                run = Run(place.names[bare], 0, spec.shape[0], 0)
                yield bare, Place(spec.shape, (run,))
        return
    made, _, _ = Dictionary(place.links).translate(part, place.side)
    for bare, arrangement in made.items():
        where = _place(arrangement, place.names)
        if where is not None:
            yield bare, where


def _place(made: Arrangement, names: Mapping[str, str]) -> Place | None:
    """Turn bytes of an arrangement into rows; None where its rows are none of the base's."""
    shape = made.spec.shape
    if made.transposed or not shape or not shape[0] or made.spec.nbytes % shape[0]:
        return None
    width, runs, first = made.spec.nbytes // shape[0], list[Run](), 0
    if not width:
        return None
    for piece in made.pieces:
        if piece.offset % width or piece.size % width:
            return None
        rows = piece.size // width
        runs.append(Run(names[piece.name], piece.offset // width, rows, first))
        first += rows
    return Place(shape, tuple(runs))


def _also(key: str, *, whole: bool) -> list[str]:
    """List less exact names of a layer: without its component, or with one if it states none."""
    components = ("unet_", "text_encoder_")
    if key.startswith(components):
        return [key.removeprefix(c) for c in components if key.startswith(c)]
    return [component + key for component in components] if whole else []


def _short(key: str) -> str:
    """Drop the level that transformers 5 removed from CLIP's module names."""
    for component in ("", "text_encoder_", "text_encoder_2_", "text_encoder_3_"):
        start = f"{component}text_model_"
        if key.startswith(start):
            return component + key.removeprefix(start)
    return key


def _words(name: str) -> str:
    return name.replace(".", "_")


@dataclass(frozen=True, slots=True)
class Layer:
    """A module of a base that a LoRA can change, and what kohya's files call it."""

    name: str
    component: str
    place: Place


# Families whose denoiser kohya names as diffusers does; the others under their original names.
_AS_DIFFUSERS = ("sd1", "sd2", "starter")
_NO_LAYER = ("embedding", "embed_tokens", "shared", "relative_attention_bias", "pos_embed")


def layers(base: Specs) -> list[Layer]:
    """List the matrices and convolutions of denoiser and text encoders, in file order.

    Embeddings and the VAE are left out: no program looks for a LoRA of them.
    """
    known = _layers_known(base)
    found = known or _layers_bare(base)
    names = aliases(base)
    sure = [x for x in found if find(x.name, "weight", names) == x.place]
    order = {name: i for i, name in enumerate(base)}
    return sorted(sure, key=lambda x: (order[x.place.runs[0].tensor], x.place.runs[0].at))


def _layers_known(base: Specs) -> list[Layer]:
    family, found = _best(base)
    texts = [p.component.name for p in found if p.component.name.startswith("text_encoder")]
    made = []
    for place in found:
        component = place.component.name
        if component == "vae":
            continue
        denoiser = component in ("unet", "transformer")
        side: Side = "diffusers" if not denoiser or family in _AS_DIFFUSERS else "ldm"
        prefix = "lora_unet_" if denoiser else _text_prefix(component, len(texts))
        if family == "flux" and component == "text_encoder_2":
            prefix = "lora_te3_"  # kohya's T5 is always the third
        for bare, where in _side(place, base, side):
            stem = bare.removesuffix(".weight")
            if stem != bare and _is_layer(stem, where):
                made.append(Layer(prefix + _words(stem), component, where))
    return made


def _layers_bare(base: Specs) -> list[Layer]:
    """List the layers of a base no dictionary knows: everything counts as its denoiser."""
    made = []
    for name, place in _whole_tensors(base):
        stem = name.removesuffix(".weight")
        if stem == name or not _is_layer(stem, place):
            continue
        key = canonical(stem)
        component = component_of(stem)
        body = key.removeprefix(f"{component}_")
        text = component.startswith("text_encoder")
        prefix = _text_prefix(component, 1) if text else "lora_unet_"
        if component != "vae":
            made.append(Layer(prefix + body, component if text else "unet", place))
    return made


def _is_layer(stem: str, place: Place) -> bool:
    return len(place.shape) >= 2 and not stem.endswith(_NO_LAYER)


def _text_prefix(component: str, count: int) -> str:
    number = component.rpartition("_")[2]
    if not number.isdigit():
        return "lora_te1_" if count > 1 else "lora_te_"
    return f"lora_te{number}_"
