"""Strengths of a LoRA block by block, as the field writes them: a preset, or one number for each block.

Lists have 17 numbers (LoRA of SD 1 and 2: text encoder and the blocks with attention), 12 (the same for
SDXL), 26 or 20 (all blocks of SD 1 and 2, of SDXL), or 61 (Flux). Blocks that a list does not name get 0.
As in merges, the time embedding counts to IN00 and the last layer to the last OUT.

Source: names and numbers of sd-webui-lora-block-weight (hako-mikan 2023), its table of presets and of
block identifiers; the numbers are facts, the code is our own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from memcard.errors import UsageError

_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_PRESETS: Final[Mapping[str, tuple[float, ...]]] = {
    "NONE": (0,) * 17,
    "ALL": (1,) * 17,
    "INS": (*(1,) * 4, *(0,) * 13),
    "IND": (1, *(0,) * 3, *(1,) * 3, *(0,) * 10),
    "INALL": (*(1,) * 7, *(0,) * 10),
    "MIDD": (1, *(0,) * 3, *(1,) * 8, *(0,) * 5),
    "OUTD": (1, *(0,) * 7, *(1,) * 4, *(0,) * 5),
    "OUTS": (1, *(0,) * 11, *(1,) * 5),
    "OUTALL": (1, *(0,) * 7, *(1,) * 9),
    "ALL0.5": (0.5,) * 17,
}


def _span(kind: str, first: int, last: int) -> tuple[str, ...]:
    return tuple(f"{kind}{n:02d}" for n in range(first, last + 1))


_WITH_ATTENTION: Final = ("IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "M00")
_LISTS: Final[Mapping[int, tuple[str, ...]]] = {
    12: ("BASE", "IN04", "IN05", "IN07", "IN08", "M00", *_span("OUT", 0, 5)),
    17: ("BASE", *_WITH_ATTENTION, *_span("OUT", 3, 11)),
    20: ("BASE", *_span("IN", 0, 8), "M00", *_span("OUT", 0, 8)),
    26: ("BASE", *_span("IN", 0, 11), "M00", *_span("OUT", 0, 11)),
    61: ("CLIP", "T5", "IN", *_span("D", 0, 18), *_span("S", 0, 37), "OUT"),
}
_UNET_LISTS: Final = (12, 17, 20, 26)
_SDXL_LISTS: Final = (12, 20)


def preset_names() -> tuple[str, ...]:
    """List the presets."""
    return tuple(_PRESETS)


def block_strengths(spec: str) -> list[tuple[str, float]]:
    """Return (pattern, number) rules for ``lora_bake`` from a preset or a list of numbers.

    Args:
        spec: such as ``OUTALL``, or 12, 17, 20, 26 or 61 numbers with commas.

    Raises:
        UsageError: it is neither.
    """
    numbers = _PRESETS.get(spec.strip().upper())
    if numbers is None:
        texts = [text.strip() for text in spec.split(",")]
        if not all(map(_NUMBER.fullmatch, texts)) or len(texts) not in _LISTS:
            raise UsageError(
                f"--blocks: {spec!r} is no preset ({', '.join(_PRESETS)}), no list of "
                f"{', '.join(map(str, _LISTS))} numbers with commas, and not REGEX=NUMBER."
            )
        numbers = tuple(map(float, texts))
    return list(_rules(_LISTS[len(numbers)], numbers))


def _rules(labels: Sequence[str], numbers: Sequence[float]) -> Iterator[tuple[str, float]]:
    given = dict(zip(labels, map(float, numbers), strict=True))
    if len(labels) not in _UNET_LISTS:
        rest = given.pop("IN")  # what is in no block and not after them: the last rule
        yield from ((_flux(label), number) for label, number in given.items())
        yield "^(?!text_)", rest
        return
    last = 8 if len(labels) in _SDXL_LISTS else 11
    for label in _LISTS[26]:
        patterns = _unet(label, last)
        number = given.get(label, 0.0)
        yield "|".join(patterns), number


def _unet(label: str, last: int) -> list[str]:
    """Return patterns of the names that the modules of a block have, original and diffusers'.

    ``down_blocks.I.resnets.J`` is IN(3 I + J + 1), ``up_blocks.I.resnets.J`` is OUT(3 I + J).
    """
    start = "^(?:unet_)?"
    if label == "BASE":
        return ["^text_"]
    if label == "M00":
        return [f"{start}(?:middle_block|mid_block)_"]
    kind, number = label.rstrip("0123456789"), int(label[-2:])
    old = {"IN": "input", "OUT": "output"}[kind]
    found = [f"{start}{old}_blocks_{number}_"]
    if label == "IN00":
        return [*found, f"{start}(?:conv_in|time_embed|label_emb|add_embedding)"]
    level, layer = divmod(number - 1 if kind == "IN" else number, 3)
    inner = f"(?:resnets|attentions)_{layer}_"
    if kind == "IN" and layer == 2:  # the third of a level is where it gets smaller
        inner = "downsamplers_"
    if kind == "OUT" and layer == 2:  # the last of a level also gets larger
        inner = f"(?:{inner}|upsamplers_)"
    found.append(f"{start}{'down' if kind == 'IN' else 'up'}_blocks_{level}_{inner}")
    return (
        [*found, f"{start}(?:out_|conv_out|conv_norm_out)"]
        if number == last and kind == "OUT"
        else found
    )


def _flux(label: str) -> str:
    """Return a pattern for a block of Flux; OUT is what comes after the blocks."""
    start = "^(?:unet_)?"
    if label == "CLIP":
        return "^text_encoder_(?![23]_)"
    if label == "T5":
        return "^text_encoder_[23]_"
    if label == "OUT":
        return f"{start}(?:final_layer|norm_out|proj_out)"
    number = int(label[1:])
    names = (
        "double_blocks|transformer_blocks"
        if label[0] == "D"
        else "single_blocks|single_transformer_blocks"
    )
    return f"{start}(?:{names})_{number}_"
