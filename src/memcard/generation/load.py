"""A pipeline out of its parts: networks without memory, then weights, each read once.

On the CPU, weights of the dtype that is computed in are windows on the file: nothing is read before the
first step touches it. What has to be converted, decoded or moved goes tensor by tensor, so that at no
time more is held than the weights in the dtype they run in and a few tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch

from memcard.core.progress import Listener, Notice, silent
from memcard.dialects import DIALECTS
from memcard.errors import MismatchError, UsageError
from memcard.generation.cache import Cache, Request
from memcard.generation.engine import FULL_VAE, NAMED, Pipeline
from memcard.generation.parts import Assembly, Part
from memcard.generation.t5_tokenizer import t5_tokenizer
from memcard.generation.tokenizer import tokenizer

PRECISIONS: Final[Mapping[str, torch.dtype]] = {
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}
_SMALL: Final = 100_000_000  # parameters; below, float32 costs nothing that matters
_WHERE: Final = {
    "vae": "Name one with --vae.",
    "text_encoder": "Name one with --text-encoder, or keep one in the library.",
}


def load(
    assembly: Assembly,
    *,
    device: str = "auto",
    dtype: str = "auto",
    encoder: bool = False,
    progress: Listener = silent,
    cache: Cache | None = None,
) -> Pipeline:
    """Build the models and give them their weights.

    Args:
        assembly: where each part comes from; keep its files open while the pipeline lives.
        device: ``auto``, ``cpu``, ``cuda``, ``mps`` or what torch calls it.
        dtype: ``auto``, ``F32``, ``BF16`` or ``F16``.
        encoder: also the half of the VAE that reads pictures.
        progress: hears what was chosen for the user.
        cache: of ``device``; keeps what is loaded, and knows what is loaded already. Its modules change with
            the next ``load``.

    Raises:
        MismatchError: parts are missing or do not fit together.
        UsageError: no such device or dtype.
    """
    refuse_missing(assembly)
    where = device_named(device)
    precision = dtype_named(dtype, where, assembly)
    own = assembly.engine.components
    parts = [assembly.parts[n] for n in own if n in assembly.parts]
    parts += [part for name, part in assembly.parts.items() if name not in own]  # ControlNets
    kept = Cache(where, budget=0) if cache is None else cache

    def full_precision() -> Any:
        """Return the autoencoder in float32."""
        vae = assembly.parts["vae"]
        return Cache(where, budget=0).load([_request(assembly, vae, torch.float32, encoder)])["vae"]

    modules = kept.load([_request(assembly, part, precision, encoder) for part in parts])
    if precision != torch.float32:
        progress(Notice(f"Computing in {str(precision).removeprefix('torch.')} on {where}."))
    for note in assembly.notes:
        progress(Notice(note))
    return Pipeline(
        assembly.family,
        assembly.engine,
        modules,
        {part.name: part.config for part in parts} | {"scheduler": assembly.scheduler},
        _tokenizers(assembly, modules),
        assembly.prediction,
        precision,
        where,
        {"cut": [], "notes": [], FULL_VAE: full_precision, NAMED: assembly.named},
    )


def refuse_missing(assembly: Assembly) -> None:
    """Raise MismatchError with every part that nothing gave, and where each may come from."""
    if not (missing := assembly.missing):
        return
    needs = "; ".join(str(need) for need in assembly.identity.missing)
    there = ", ".join(assembly.parts) or "nothing"
    label = next((part.label for part in assembly.parts.values()), "the checkpoint")
    where = [text for start, text in _WHERE.items() if any(n.startswith(start) for n in missing)]
    raise MismatchError(
        f"{label}: a part of a {DIALECTS[assembly.family].title} checkpoint. It holds {there} and lacks "
        f"{', '.join(missing)}{f' ({needs})' if needs else ''}. "
        f"{' '.join(where) or 'Choose a whole checkpoint.'}"
    )


def _request(assembly: Assembly, part: Part, dtype: torch.dtype, encoder: bool) -> Request:
    engine = assembly.engine
    left_out = () if encoder or part.name != "vae" else engine.vae_encoder

    def make() -> Any:
        module: Any = engine.empty(part.name, part.config)
        for layer in left_out:
            setattr(module, layer, None)
        return module

    kind = " ".join((engine.title, *(f"-{name}" for name in left_out)))
    return Request(part, make, dtype, kind, tuple(left_out))


def _tokenizers(assembly: Assembly, modules: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the tokenizers that came with the parts where an engine reads them, else the packaged ones."""
    own = getattr(assembly.engine, "tokenizers", None)
    found: Mapping[str, Any] = (
        tokenizers_of(assembly.family, modules) if own is None else own(assembly.parts)
    )
    return found


def tokenizers_of(family: str, modules: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the tokenizer of each text encoder that is there."""
    found = {}
    for folder, name in DIALECTS[family].tokenizers.items():
        encoder = folder.replace("tokenizer", "text_encoder")
        if encoder in modules:
            found[encoder] = t5_tokenizer() if name == "t5" else tokenizer(name)
    return found


def device_named(name: str) -> torch.device:
    """Return the device a user names; ``auto`` is CUDA, else MPS, else the CPU.

    Raises:
        UsageError: this machine or this torch has no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UsageError(f"no device {name!r} here: {error}. Use --device cpu.") from error
    return device


def dtype_named(name: str, device: torch.device, assembly: Assembly) -> torch.dtype:
    """Choose what to compute in: float32 unless the model is large and the device has better."""
    if name in PRECISIONS:
        return PRECISIONS[name]
    if name != "auto":
        raise UsageError(
            f"no dtype {name!r} to compute in. There are: auto, {', '.join(PRECISIONS)}."
        )
    if sum(part.elements for part in assembly.parts.values()) < _SMALL:
        return torch.float32
    if device.type in ("cuda", "mps"):
        # T5 overflows in float16, and the transformers that flow were trained in bfloat16.
        return torch.bfloat16 if assembly.prediction == "flow" else torch.float16
    fast = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32
