"""Which block of a denoiser a tensor is in, under the names merges use, and a weight for each.

U-Nets have BASE, IN00 …, M00, OUT00 …: 26 for SD 1 and 2, 20 for SDXL. Transformers have BASE and DOUBLE00 …,
SINGLE00 … (Flux: 19 + 38), JOINT00 … (SD3) or BLOCK00 …. BASE is all that is in no block: text encoders, VAE.
As in supermerger, the time embedding counts to IN00 and the last layer to the last OUT.

Source: the block numbers of the LDM U-Net and of Flux; diffusers' names are numbered by
``down_blocks.I.resnets.J`` → IN(3 I + J + 1), ``up_blocks.I.resnets.J`` → OUT(3 I + J).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

from memcard.errors import UsageError
from memcard.jobs._block_presets import names as preset_names
from memcard.jobs._block_presets import preset
from memcard.jobs._blocks import places

BASE: Final = "BASE"
_FEWEST_POINTS: Final = 2
_NONE: Final = (BASE, 0)
_HALVES: Final = ("IN", "M", "OUT")
_DENOISERS: Final = ("unet", "transformer", "transformer_2")
_KINDS: Final = ("IN", "M", "OUT", "DOUBLE", "JOINT", "SINGLE", "BLOCK")
_LDM: Final = re.compile(r"(?:^|\.)(input_blocks|middle_block|output_blocks)\.(\d+)\.")
_DIFFUSERS: Final = re.compile(
    r"(?:^|\.)(down_blocks|up_blocks)\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\."
)
_ENDS: Final = re.compile(
    r"^(?:model\.diffusion_model\.|diffusion_model\.|unet\.)?"
    r"(?:(?P<first>time_embed|time_embedding|label_emb|add_embedding|conv_in)"
    r"|(?P<middle>mid_block)|(?P<last>out|conv_norm_out|conv_out))\."
)
_STACKS: Final = re.compile(
    r"^(?:model\.diffusion_model\.|diffusion_model\.|transformer\.|model\.)?"
    r"(?P<stack>double_blocks|single_blocks|joint_blocks|transformer_blocks|single_transformer_blocks"
    r"|blocks|layers)\.(?P<n>\d+)\."
)
_STACK_KINDS: Final = {
    "double_blocks": "DOUBLE",
    "single_blocks": "SINGLE",
    "single_transformer_blocks": "SINGLE",
    "joint_blocks": "JOINT",
}
_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_RANGE: Final = re.compile(r"([A-Z]+)(\d+)-(\d+)")
_XL_BLOCKS: Final = 20


def block_labels(names: Iterable[str]) -> dict[str, str]:
    """Return the block of each tensor of one checkpoint: a label such as ``IN04``, or ``BASE``."""
    place_of = places(names)
    raw = {
        name: _raw(name) if place_of[name].component in _DENOISERS else _NONE for name in place_of
    }
    unet = any(kind == "OUT" and n >= 0 for kind, n in raw.values())
    raw = {
        name: _NONE if found[0] in _HALVES and not unet else found for name, found in raw.items()
    }
    kinds = {kind for kind, _ in raw.values()}
    paired = "SINGLE" in kinds or "DOUBLE" in kinds
    last = max((n for kind, n in raw.values() if kind == "OUT"), default=0)
    return {name: _label(*found, last, paired=paired) for name, found in raw.items()}


def block_order(labels: Iterable[str]) -> list[str]:
    """Return all labels up to the highest of each kind in the order of a list of weights, BASE first."""
    last: dict[str, int] = {}
    for kind, number in map(_split, labels):
        last[kind] = max(number, last.get(kind, 0))
    found = [f"{kind}{i:02d}" for kind in _KINDS for i in range(last.get(kind, -1) + 1)]
    return [BASE, *found]


def block_weights(spec: str, labels: Mapping[str, str]) -> dict[str, float]:
    """Return the weight of each tensor that ``spec`` speaks of.

    Args:
        spec: a preset; or one number for each block, BASE first; or items with commas, of which later
            ones win: ``0..1`` (from the first block to the last; more points as ``0..1..0``),
            ``IN04=0.3``, ``IN04-07=0.3``, ``OUT*=0.5``, ``BASE=0``, ``/REGEX/=0.9`` (on tensor names).
        labels: of each tensor, from ``block_labels``.

    Raises:
        UsageError: no such preset, block or form, or a wrong number of weights; all faults at once.
    """
    order = block_order(labels.values())
    if len(order) == 1:
        raise UsageError(
            "--blocks: this checkpoint has no blocks that anybody numbers; use --weights."
        )
    listed = preset(spec.strip())
    if listed is None and "," in spec and all(map(_NUMBER.fullmatch, _items(spec))):
        listed = tuple(float(item) for item in _items(spec))
    if listed is not None:
        table = _table(listed, order, spec)
        return {name: table[label] for name, label in labels.items()}
    return _from_items(spec, labels, order)


def _items(spec: str) -> list[str]:
    """Split at commas that are in no /regex/."""
    return [item.strip() for item in re.findall(r"(?:/(?:\\.|[^/\\])*/|[^,])+", spec)]


def _table(weights: Sequence[float], order: Sequence[str], spec: str) -> dict[str, float]:
    unet = [*_unet_labels(12)]
    if len(weights) == len(unet) and len(order) <= _XL_BLOCKS and set(order) <= set(unet):
        by_name = dict(
            zip(unet, weights, strict=True)
        )  # blocks of the same name, as supermerger does
        return {label: by_name[label] for label in order}
    if len(weights) != len(order):
        raise UsageError(
            f"--blocks: {len(weights)} weights, and this checkpoint has {len(order)} blocks: "
            f"{', '.join(order)}."
            + (" Presets are for U-Nets." if _NUMBER.fullmatch(_items(spec)[0]) is None else "")
        )
    return dict(zip(order, weights, strict=True))


def _unet_labels(half: int) -> list[str]:
    return block_order([f"IN{half - 1:02d}", "M00", f"OUT{half - 1:02d}"])


def _from_items(spec: str, labels: Mapping[str, str], order: Sequence[str]) -> dict[str, float]:
    found: dict[str, float] = {}
    faults: list[str] = []
    for item in _items(spec):
        if ".." in item and "=" not in item:
            found |= _gradient(item, labels, order, faults)
            continue
        target, equals, text = item.rpartition("=")
        if not equals or not _NUMBER.fullmatch(text.strip()):
            faults.append(f"{item!r} is no weight, gradient or preset")
            continue
        chosen = _chosen(target.strip(), labels, faults)
        found |= dict.fromkeys(chosen, float(text))
    if faults:
        raise UsageError(
            f"--blocks: {'; '.join(faults)}. Write weights like GRAD_V, 0..1, IN04=0.3, OUT*=0.5 or "
            f"/attn2/=0.9. Blocks here: {', '.join(order)}. Presets: {', '.join(preset_names())}."
        )
    return found


def _gradient(
    item: str, labels: Mapping[str, str], order: Sequence[str], faults: list[str]
) -> dict[str, float]:
    texts = item.split("..")
    if len(texts) < _FEWEST_POINTS or not all(map(_NUMBER.fullmatch, texts)):
        faults.append(f"{item!r} is no gradient")
        return {}
    points, blocks = [float(text) for text in texts], order[1:]
    table = {label: _between(points, i, len(blocks)) for i, label in enumerate(blocks)}
    return {name: table[label] for name, label in labels.items() if label in table}


def _between(points: Sequence[float], i: int, count: int) -> float:
    """Return point ``i`` of ``count`` on the straight lines through ``points``, evenly spaced."""
    at = i * (len(points) - 1) / max(1, count - 1)
    low = min(int(at), len(points) - 2)
    return points[low] + (points[low + 1] - points[low]) * (at - low)


def _chosen(target: str, labels: Mapping[str, str], faults: list[str]) -> list[str]:
    if len(target) > 1 and target.startswith("/") and target.endswith("/"):
        try:
            pattern = re.compile(target[1:-1])
        except re.error as error:
            faults.append(f"{target!r} is no regular expression ({error})")
            return []
        names = [name for name in labels if pattern.search(name)]
    else:
        wanted = target.upper()
        names = [name for name, label in labels.items() if _is_meant(label, wanted)]
    if not names:
        faults.append(f"{target!r} fits no tensor")
    return names


def _is_meant(label: str, wanted: str) -> bool:
    if span := _RANGE.fullmatch(wanted):
        kind, number = _split(label)
        return kind == span[1] and int(span[2]) <= number <= int(span[3])
    return fnmatchcase(label, wanted) or (wanted == "M" and label == "M00")


def _split(label: str) -> tuple[str, int]:
    kind = label.rstrip("0123456789")
    return kind, int(label[len(kind) :] or -1)


def _raw(name: str) -> tuple[str, int]:
    """Return the kind of block and its number; OUT -1 is the last layer."""
    if found := _LDM.search(name):
        kind = {"input_blocks": "IN", "output_blocks": "OUT"}.get(found[1])
        return (kind, int(found[2])) if kind else ("M", 0)
    if found := _DIFFUSERS.search(name):
        at = 3 * int(found[2])
        if found[1] == "down_blocks":
            return "IN", at + (3 if found[3] == "downsamplers" else int(found[4]) + 1)
        return "OUT", at + (2 if found[3] == "upsamplers" else int(found[4]))
    if found := _ENDS.match(name):
        return ("IN", 0) if found["first"] else ("M", 0) if found["middle"] else ("OUT", -1)
    if found := _STACKS.match(name):
        return _STACK_KINDS.get(found["stack"], "BLOCK"), int(found["n"])
    return _NONE


def _label(kind: str, number: int, last: int, *, paired: bool) -> str:
    if kind == BASE:
        return BASE
    if kind == "BLOCK" and paired:
        kind = "DOUBLE"  # diffusers' transformer_blocks beside single_transformer_blocks
    return f"{kind}{last if (kind, number) == ('OUT', -1) else number:02d}"
