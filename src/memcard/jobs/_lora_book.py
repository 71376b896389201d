"""What the modules of a LoRA are called: by kohya, by PEFT, by diffusers.

kohya joins words with ``_``, which hides where one word ends. The words of a family's dictionary that
have a ``_`` in them tell: the longest that fits is taken, and the result must be a name that the
dictionary knows. A name nobody knows is refused, not guessed.

Sources: kohya sd-scripts ``networks/lora.py``, ``lora_flux.py``, ``lora_sd3.py``; diffusers
``loaders/lora_conversion_utils.py``; PEFT ``utils/save_and_load.py`` (all Apache-2.0).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from memcard.architectures import identify
from memcard.architectures._unet import modules
from memcard.core.checkpoint import Checkpoint
from memcard.core.tensors import DTYPES, Spec
from memcard.dialects import DIALECTS, Side
from memcard.dialects._dialect import locate
from memcard.dialects._link import Dictionary, Link, same
from memcard.errors import MismatchError, UsageError

Target: TypeAlias = Literal["kohya", "peft", "diffusers"]
TARGETS: Final[tuple[Target, ...]] = ("kohya", "peft", "diffusers")

# Families whose denoiser kohya names as diffusers does; the others under their original names.
_AS_DIFFUSERS: Final = ("sd1", "sd2", "starter")
# Families with published names: resnets and attention of the UNet, or None for a transformer.
_UNETS: Final[Mapping[str, tuple[int, tuple[bool, ...], str]]] = {
    "sd1": (2, (True, True, True, False), "class_embedding"),
    "sd2": (2, (True, True, True, False), "class_embedding"),
    "sdxl": (2, (False, True, True), "add_embedding"),
}
_TEXTS: Final[Mapping[str, int]] = {
    "sd1": 1,
    "sd2": 1,
    "starter": 1,
    "sdxl": 2,
    "sd3": 3,
    "flux": 2,
}
_LONGEST: Final = 4  # parts of a word such as single_transformer_blocks
_FLUX_WIDTH: Final = 3072
_SD3_WIDE: Final = 2432  # of SD 3.5 large, which has 38 blocks; the medium ones have 24

_ATTENTION_WORDS: Final = (
    "proj_in",
    "proj_out",
    "transformer_blocks",
    "to_q",
    "to_k",
    "to_v",
    "to_out",
)
_TEXT_WORDS: Final = frozenset(
    ("text_model", "self_attn", "q_proj", "k_proj", "v_proj", "out_proj", "text_projection", "wi_0", "wi_1")
)  # fmt: skip
_INSIDE: Final = re.compile(
    r"(?:proj_in|proj_out|norm|transformer_blocks\.\d+\.(?:norm[123]|attn[12]\.to_(?:[qkv]|out\.0)"
    r"|ff\.net\.(?:0\.proj|2)))\.weight"
)
_TEXT: Final = re.compile(
    r"text_model\.(?:encoder\.layers\.\d+\.(?:self_attn\.(?:[qkv]|out)_proj|mlp\.fc[12]|layer_norm[12])"
    r"|final_layer_norm)|text_projection"
    r"|encoder\.block\.\d+\.layer\.\d\.(?:SelfAttention\.[qkvo]|DenseReluDense\.w(?:i|i_0|i_1|o))"
)
# Attention processors of diffusers before 0.22 named the projections of CLIP as those of the UNet.
_OLD_TEXT: Final = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}
_WRAPPER: Final = re.compile(r"(?:(?P<component>\w+)\.)?base_model\.model\.(?P<bare>.+)")
_DOTTED: Final = re.compile(r"(?P<component>unet|transformer|text_encoder(?:_[23])?)\.(?P<bare>.+)")
_ORIGINAL: Final = re.compile(r"(?:model\.)?diffusion_model\.(?P<bare>.+)")
_KOHYA: Final = re.compile(
    r"(?:lora_|lycoris_)(?:(?P<part>unet|transformer|te[123]?)_)?(?P<bare>[^.]+)"
)


@dataclass(frozen=True, slots=True)
class Name:
    """A module: its component in diffusers' pipeline, whose names, and the name with dots."""

    component: str
    side: Side
    bare: str


@dataclass(frozen=True)
class Book:
    """The names of one family.

    Attributes:
        family: of the base.
        denoiser: ``unet`` or ``transformer``.
        words: the denoiser's dictionary.
        compounds: words of it with ``_`` in them.
        texts: number of text encoders.
    """

    family: str
    denoiser: str
    words: Dictionary
    compounds: frozenset[str]
    texts: int

    def parse(self, module: str) -> Name | None:
        """Return what a module of a file is; None if the family has no such layer."""
        component, bare, dotted = self._split(module)
        if component.startswith("text_encoder"):
            bare = _text(bare if dotted else _with_dots(bare, _TEXT_WORDS))
            return Name(component, "diffusers", bare) if _TEXT.fullmatch(bare) else None
        bare = bare.replace(".processor.", ".") if dotted else _with_dots(bare, self.compounds)
        sides: tuple[Side, ...] = ("diffusers", "ldm")
        for text in (bare, f"{bare}.0"):  # old attention processors say to_out for to_out.0
            for side in sides:
                if self._knows(text, side):
                    return Name(self.denoiser, side, text)
        lone = (
            dotted and component == self.denoiser
        )  # a file of a text encoder alone names no component
        return (
            Name("text_encoder", "diffusers", _text(bare))
            if lone and _TEXT.fullmatch(_text(bare))
            else None
        )

    def write(self, name: Name, target: Target, *, wrapped: bool = False) -> str:
        """Return what ``target`` calls a module.

        Args:
            name: on the side that ``side_for`` says.
            target: the dialect.
            wrapped: PEFT only: state the component, too.
        """
        if target == "kohya":
            return self._prefix(name.component) + name.bare.replace(".", "_")
        if target == "diffusers":
            return f"{name.component}.{name.bare}"
        return (f"{name.component}." if wrapped else "") + f"base_model.model.{name.bare}"

    def side_for(self, component: str, target: Target) -> Side:
        """Tell whose names ``target`` uses for a component."""
        original = target == "kohya" and self.family not in _AS_DIFFUSERS
        return "ldm" if original and component == self.denoiser else "diffusers"

    def _split(self, module: str) -> tuple[str, str, bool]:
        """Return the component, the rest of the name, and whether its words are joined by dots."""
        if found := _WRAPPER.fullmatch(module) or _DOTTED.fullmatch(module):
            return self._component(found["component"] or ""), found["bare"], True
        if found := _ORIGINAL.fullmatch(module):
            return self.denoiser, found["bare"], True
        if found := _KOHYA.fullmatch(module):
            return self._component(found["part"] or ""), found["bare"], False
        return self.denoiser, module, True

    def _component(self, word: str) -> str:
        if word.startswith("text_encoder"):
            return word
        if word.startswith("te"):
            number = int(word[2:] or 1)
            number = min(number, self.texts)  # kohya's T5 is always the third, Flux has two
            return "text_encoder" if number == 1 else f"text_encoder_{number}"
        return self.denoiser

    def _prefix(self, component: str) -> str:
        if component == self.denoiser:
            return "lora_unet_"
        if self.texts == 1:
            return "lora_te_"
        number = component.removeprefix("text_encoder").removeprefix("_") or "1"
        return "lora_te3_" if self.family == "flux" and number == "2" else f"lora_te{number}_"

    def _knows(self, bare: str, side: Side) -> bool:
        name = f"{bare}.weight"
        found = self.words.group(name, side)
        if found is None:
            return False
        rest = next((t for t in found[0].side(side) if t.endswith(".{rest}")), None)
        inside = "" if rest is None else name.removeprefix(rest.removesuffix("{rest}"))
        return inside in ("", "weight") or _INSIDE.fullmatch(inside) is not None


def book_for(
    lora: Checkpoint,
    shapes: Sequence[tuple[int, ...]],
    *,
    family: str | None,
    base: Checkpoint | None,
) -> Book:
    """Return the names of the family a LoRA is for.

    Args:
        lora: the file; asked for its family if neither of the others tells.
        shapes: of its factors; they tell how many blocks an SD 3 has.
        family: of the base.
        base: a checkpoint of that family, also of an unusual size.

    Raises:
        MismatchError: the family is unknown, or has no dictionary.
        UsageError: there is no such family.
    """
    if base is not None:
        return _of_base(base)
    found = identify(lora.specs, lora.metadata)
    name = family or found.architecture
    if family is not None and family not in _TEXTS:
        raise UsageError(f"family: {family!r}; there are names for {', '.join(_TEXTS)}.")
    if name is None or name not in _TEXTS:
        what = "which base this LoRA is for" if name is None else f"the names of {name!r}"
        if found.candidates and name is None:
            what += f" (it fits {' and '.join(found.candidates)})"
        raise MismatchError(
            f"memcard does not know {what}. There are names for {', '.join(_TEXTS)}: say which with "
            "--family, or give a checkpoint with --base."
        )
    if name == "starter":
        from memcard.jobs.resolve import resolve

        starter = resolve("starter")
        try:
            return _of_base(starter)
        finally:
            starter.close()
    return _book(name, _links(name, shapes))


def _links(family: str, shapes: Sequence[tuple[int, ...]]) -> Sequence[Link]:
    if family in _UNETS:
        layers, attention, labels = _UNETS[family]
        table = modules(layers, attention, labels=labels)
        return [same(f"{a}.{{rest}}", f"{b}.{{rest}}") for a, b in table.items()]
    marks: dict[str, tuple[int, ...]] = {}
    if family == "flux":
        block = "double_blocks.0.img_attn.norm.key_norm.scale"
        marks = {
            "img_in.weight": (_FLUX_WIDTH, 64),
            block: (1,),
            "single_blocks.0.linear1.weight": (1,),
        }
    if family == "sd3":
        marks = {"pos_embed": (1,), "joint_blocks.0.context_block.attn.qkv.weight": (1,)}
        count = 38 if any(_SD3_WIDE in shape for shape in shapes) else 24
        marks |= {f"joint_blocks.{n}.x_block.attn.qkv.weight": (1,) for n in range(count)}
    specs = {name: Spec(DTYPES["F16"], shape) for name, shape in marks.items()}
    return DIALECTS[family].components[0].links(specs, "ldm") or ()


def _of_base(base: Checkpoint) -> Book:
    found = {name: locate(DIALECTS[name], base.specs) for name in _TEXTS}
    family = max(found, key=lambda name: sum(len(place.names) for place in found[name]))
    denoiser = DIALECTS[family].components[0].name
    links = next((p.links for p in found[family] if p.component.name == denoiser), None)
    if links is None:
        raise MismatchError(
            "the base has no denoiser whose names are in a dictionary. There are dictionaries for "
            f"{', '.join(_TEXTS)}."
        )
    return _book(family, links)


def _book(family: str, links: Sequence[Link]) -> Book:
    texts = [text for link in links for side in (link.ldm, link.diffusers) for text in side]
    compounds = {
        word for text in texts for word in text.split(".") if "_" in word and "{" not in word
    }
    denoiser = DIALECTS[family].components[0].name
    return Book(
        *(family, denoiser, Dictionary(links)),
        compounds=frozenset(compounds) | frozenset(_ATTENTION_WORDS),
        texts=_TEXTS[family],
    )


def _with_dots(body: str, compounds: frozenset[str]) -> str:
    """Undo kohya's ``_``: the longest known word first."""
    words, found, at = body.split("_"), list[str](), 0
    while at < len(words):
        sizes = range(min(_LONGEST, len(words) - at), 1, -1)
        joined = ("_".join(words[at : at + size]) for size in sizes)
        word = next((text for text in joined if text in compounds), words[at])
        found.append(word)
        at += word.count("_") + 1
    return ".".join(found)


def _text(bare: str) -> str:
    """Return transformers' usual name of a text encoder's layer."""
    bare = bare.replace(".processor.", ".")
    stem, _, last = bare.rpartition(".")
    if stem.endswith("self_attn") and last in _OLD_TEXT:
        bare = f"{stem}.{_OLD_TEXT[last]}"
    return (
        f"text_model.{bare}" if bare.startswith(("encoder.layers.", "final_layer_norm")) else bare
    )
