"""Write the starter's single files: fp16 safetensors under Stable Diffusion's own tensor names.

The same weights always give the same bytes: tensors are ordered by name, and the date is a constant.
Files appear by rename, so a reader never sees half of one.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from ldm_names import text_name, unet_name, vae_name, vae_tensor
from pictures import STYLES
from safetensors.torch import load_file
from torch import Tensor

SHIPPED = Path(__file__).parents[2] / "src/memcard/starter"
DATE = "2026-11-22"
ARCHITECTURE = "memcard-starter-v1"
LIMITS = (
    "Knows about 150 objects in 4 styles on 12 plain backgrounds at 64x64, and nothing else of the "
    "world. It memorises its training pictures; other words give blobs. No text, scenes or people."
)
ATTRIBUTION = (
    {
        "name": "Microsoft Fluent Emoji",
        "license": "MIT",
        "source": "https://github.com/microsoft/fluentui-emoji",
    },
    {
        "name": "LobeHub fluent-emoji-3d",
        "license": "MIT",
        "source": "https://www.npmjs.com/package/@lobehub/fluent-emoji-3d",
    },
    {
        "name": "Google Noto Emoji",
        "license": "Apache-2.0",
        "source": "https://github.com/googlefonts/noto-emoji",
    },
)
SETTINGS = {
    "steps": 20,
    "cfg": 3.0,
    "sampler": "dpmpp_2m",
    "scheduler": "trailing",
    "size": "64x64",
}


@dataclass(frozen=True)
class Label:
    """What a file says about itself."""

    kind: str  # base, raw, finetune, lora, vae
    title: str
    description: str
    trigger: str = ""
    architecture: str = ARCHITECTURE
    parents: tuple[str, ...] = ()
    training: dict[str, Any] = field(default_factory=dict)
    more: dict[str, str] = field(default_factory=dict)

    def metadata(self) -> dict[str, str]:
        """Return the safetensors ``__metadata__``: modelspec 1.0.1 and memcard's own card."""
        card = {
            "kind": self.kind,
            "parents": list(self.parents),
            "license": "Apache-2.0",
            "attribution": list(ATTRIBUTION),
            "settings": SETTINGS,
            "training": self.training,
            "limits": LIMITS,
        }
        return {
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.architecture": self.architecture,
            "modelspec.implementation": "diffusers",
            "modelspec.title": self.title,
            "modelspec.description": f"{self.description} {LIMITS}",
            "modelspec.author": "memcard contributors",
            "modelspec.license": "Apache-2.0",
            "modelspec.date": DATE,
            "modelspec.resolution": "64x64",
            "modelspec.prediction_type": "v",
            "modelspec.trigger_phrase": self.trigger or ", ".join(STYLES),
            "modelspec.tags": f"starter, {self.kind}, emoji, 64x64",
            "memcard.card": json.dumps(card, sort_keys=True),
            **self.more,
        }


def half(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return fp16 copies; refuse numbers fp16 cannot hold."""
    out = {name: t.to(torch.float16).contiguous() for name, t in tensors.items()}
    faults = [name for name, t in out.items() if not torch.isfinite(t).all()]
    if faults:
        raise SystemExit(f"not finite in float16: {', '.join(faults)}")
    return out


def body_of(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Return a safetensors file of float16 tensors.

    Written here because the safetensors library puts metadata in an order that changes from process
    to process, so that equal files would have different hashes.
    """
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    parts, end = [], 0
    for name, tensor in sorted(tensors.items()):
        part = tensor.contiguous().numpy().tobytes()
        place = [end, end + len(part)]
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": place}
        parts.append(part)
        end += len(part)
    head = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + b"".join(parts)


def write_file(path: Path, tensors: dict[str, Tensor], label: Label) -> str:
    """Write one file of float16 tensors by rename and return its sha256."""
    body = body_of(tensors, label.metadata())
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(body)
    part.replace(path)
    return hashlib.sha256(body).hexdigest()


def ldm_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename ``unet.*``, ``text.*`` and ``vae.*`` to LDM names, fp16."""
    out = {}
    for name, tensor in tensors.items():
        part, rest = name.split(".", 1)
        if part == "unet":
            out[unet_name(rest)] = tensor
        elif part == "text":
            if not rest.endswith("position_ids"):
                out[text_name(rest)] = tensor
        else:
            ldm = vae_name(rest)
            out[ldm] = vae_tensor(ldm, tensor)
    return half(out)


def overlay(base: dict[str, Tensor], full: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of ``full`` whose fp16 bits differ from the base."""
    return {n: t for n, t in full.items() if not torch.equal(t, base[n])}


def write_overlay(path: Path, full: dict[str, Tensor], label: Label, folder: Path) -> str:
    """Write what differs from ``base.safetensors`` in ``folder``, bound to it by its sha256."""
    source = folder / "base.safetensors"
    base_sha = hashlib.sha256(source.read_bytes()).hexdigest()
    changed = overlay(load_file(source), full)
    delta = {"memcard.delta.base_sha256": base_sha, "memcard.delta.mode": "replace"}
    bound = Label(**{**vars(label), "parents": (base_sha,), "more": {**label.more, **delta}})
    return write_file(path, changed, bound)


def lora_label(
    name: str, trigger: str, rank: int, alpha: float, base: str, training: dict
) -> Label:
    """Return the label of a style LoRA."""
    return Label(
        kind="lora",
        title=f"memcard starter LoRA: {name}",
        description=f"Style LoRA ({name}) for the memcard starter.",
        trigger=trigger,
        architecture=f"{ARCHITECTURE}/lora",
        parents=(base,),
        training=training,
        more={
            "ss_network_module": "networks.lora",
            "ss_network_dim": str(rank),
            "ss_network_alpha": f"{alpha:g}",
            "ss_output_name": f"lora_{name.replace(' ', '_')}",
        },
    )
