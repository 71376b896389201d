"""The files a fine-tuning ends in: a checkpoint like its base, or a LoRA in kohya's and PEFT's names."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import torch
from torch import Tensor, nn

from memcard._version import __version__
from memcard.core.tensors import DTYPES, Spec
from memcard.errors import MismatchError
from memcard.formats import format_for_suffix, open_file
from memcard.jobs._finetune_models import Base
from memcard.jobs._finetune_tuned import Tuned
from memcard.jobs._lora_alpha import METADATA
from memcard.jobs._lora_file import network
from memcard.jobs.lora_convert import lora_convert
from memcard.jobs.resolve import card_of
from memcard.recipes.bake import pour
from memcard.training.finetune.adapters import factors
from memcard.training.finetune.settings import Settings

LoraFormat: TypeAlias = Literal["kohya", "peft", "both"]
LORA_FORMATS: Final = ("kohya", "peft", "both")
_ADAPTER: Final = "adapter.safetensors"
_OWN: Final = ("hash", "sha256", "title", "date", "thumbnail", "merged_from", "description", "sd_merge",
               "sshs_", "ss_", "trigger", "tags", "usage_hint", "author")  # fmt: skip
_LEVEL: Final = "text_model."
_SPELLED: Final = {"magnitude_vector": "lora_magnitude_vector"}


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a result comes from, as it may be shared: no folder of this machine.

    Attributes:
        base: its name.
        sha256: of the base.
        license: the base's own words, or ``unknown``.
        data: name of the folder.
        fingerprint: of the data.
        data_license: as the user says; None if he does not.
        pictures: number of examples.
        run: id of the run.
    """

    base: str
    sha256: str
    license: str
    data: str
    fingerprint: str
    data_license: str | None
    pictures: int
    run: str


def write_tuned(
    base: Base, learnt: nn.Module, out: Path, metadata: Mapping[str, str]
) -> tuple[list[Path], tuple[str, ...]]:
    """Write a whole checkpoint; return its file and notes."""
    tuned = Tuned(base, {n: p.detach() for n, p in learnt.named_parameters()}, metadata)
    pour(tuned, format_for_suffix(out).create(out), metadata=metadata)
    return [out], tuned.notes


def write_lora(
    base: str | Path,
    learnt: nn.Module,
    settings: Settings,
    out: Path,
    metadata: Mapping[str, str],
    *,
    form: LoraFormat = "kohya",
) -> tuple[list[Path], tuple[str, ...]]:
    """Write a LoRA: ``out`` in kohya's names, ``NAME-peft/`` beside it as PEFT keeps it, or both.

    Args:
        base: whose layers it is for.
        learnt: the factors.
        settings: tell alpha.
        out: a .safetensors file.
        metadata: of the file.
        form: which of the two.

    Returns:
        The files and folders, and notes.

    Raises:
        MismatchError: values do not fit into 16 bits.
    """
    made: list[Path] = []
    notes: tuple[str, ...] = ()
    with tempfile.TemporaryDirectory(prefix="memcard-lora-") as name:
        plain = _adapter(learnt, settings, Path(name) / _ADAPTER, metadata)
        if form in ("kohya", "both"):
            named = Path(name) / "kohya.safetensors"
            notes = lora_convert(plain, named, to="kohya", base=base, digests=False).notes
            opened = open_file(named)
            try:
                pour(opened, format_for_suffix(out).create(out), metadata=metadata)
            finally:
                opened.close()
            made.append(out)
        if form in ("peft", "both"):
            folder = out.with_name(f"{out.stem}-peft")
            lora_convert(plain, f"{folder}/", to="peft", base=base, overwrite=True, digests=False)
            made.append(folder)
    return made, notes


def metadata_of(base: Base, settings: Settings, origin: Origin, **facts: Any) -> dict[str, str]:
    """Return what the result says about itself.

    Args:
        base: it was made from.
        settings: of the run.
        origin: of base and data.
        facts: ``name`` of the result; ``steps`` done; ``loss`` at the end.
    """
    lora = settings.kind == "lora"
    kept = {
        key: value
        for key, value in base.source.metadata.items()
        if key.startswith("modelspec.") and not any(word in key for word in _OWN)
    }
    found = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": "diffusers",
        **kept,
        "modelspec.title": facts["name"],
        "modelspec.date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "modelspec.resolution": f"{settings.width}x{settings.height}",
        **_predicts(base),
        "modelspec.merged_from": origin.base,
        "memcard.finetune": _dump(_training(settings, origin, facts)),
        "memcard.card": _dump(_card(base, settings, origin, facts)),
    }
    if settings.trigger:
        found["modelspec.trigger_phrase"] = settings.trigger
    return found | (_kohya(base, settings, origin, facts, kept) if lora else {})


def _predicts(base: Base) -> dict[str, str]:
    """Return ModelSpec's word for what the denoiser says; it has none for flows."""
    if base.prediction == "flow":
        return {}
    return {"modelspec.prediction_type": "v" if base.prediction == "v_prediction" else "epsilon"}


def _kohya(
    base: Base,
    settings: Settings,
    origin: Origin,
    facts: Mapping[str, Any],
    kept: Mapping[str, str],
) -> dict[str, str]:
    """Return what kohya's scripts write into a LoRA, which other programs read."""
    kind = kept.get("modelspec.architecture", "")
    found = {"modelspec.architecture": f"{kind.removesuffix('/lora')}/lora"} if kind else {}
    found |= network([settings.rank], base.source)
    return found | {
        "ss_network_alpha": f"{settings.alpha:g}",
        "ss_output_name": facts["name"],
        "ss_sd_model_name": origin.base,
        "ss_new_sd_model_hash": origin.sha256,
        "ss_steps": str(facts["steps"]),
        "ss_num_train_images": str(origin.pictures),
        "ss_learning_rate": f"{settings.lr:g}",
        "ss_resolution": f"({settings.width}, {settings.height})",
        "ss_mixed_precision": {"fp32": "no"}.get(settings.precision, settings.precision),
        "ss_optimizer": settings.optimizer,
        "ss_lr_scheduler": settings.schedule,
        "ss_v_parameterization": str(base.prediction == "v_prediction"),
    }


def _card(
    base: Base, settings: Settings, origin: Origin, facts: Mapping[str, Any]
) -> dict[str, Any]:
    own = card_of(base.source.metadata)
    found: dict[str, Any] = {
        "title": facts["name"],
        "kind": settings.kind,
        "license": origin.license,
        "base_model": origin.base,
        "parents": [origin.sha256],
        "made_from": [{"name": origin.base, "sha256": origin.sha256, "license": origin.license}],
    }
    if settings.trigger:
        found["trigger_words"] = [settings.trigger]
    found |= {key: own[key] for key in ("settings", "limits") if key in own}
    credited = own.get("attribution")
    listed = list(credited) if isinstance(credited, list) else []
    listed.append({"name": origin.data, "license": origin.data_license or "unknown"})
    return found | {"attribution": listed}


def _training(settings: Settings, origin: Origin, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "version": 1,
        "memcard": __version__,
        "run": origin.run,
        "base": {"name": origin.base, "sha256": origin.sha256},
        "data": {
            "name": origin.data,
            "fingerprint": origin.fingerprint,
            "pictures": origin.pictures,
        },
        "settings": settings.to_dict(),
        "steps": facts["steps"],
        "loss": facts["loss"],
    }


def _adapter(
    learnt: nn.Module, settings: Settings, path: Path, metadata: Mapping[str, str]
) -> Path:
    """Write the factors in diffusers' names, alpha in the metadata as diffusers reads it."""
    tensors: dict[str, Tensor] = {}
    components: dict[str, list[str]] = {}
    for layer, parts in factors(learnt).items():
        component, _, bare = layer.partition(".")
        if component.startswith("text_encoder") and not bare.startswith(_LEVEL):
            bare = f"{_LEVEL}{bare}"  # transformers 5.6 dropped it in one of its two classes
        components.setdefault(component, []).append(bare)
        for part, value in parts.items():
            name = _SPELLED.get(part, f"lora_{part}.weight")
            tensors[f"{component}.{bare}.{name}"] = value.to("cpu", torch.float16).contiguous()
    wild = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if wild:
        raise MismatchError(
            f"{len(wild)} factors hold values that 16 bits cannot, first {wild[0]!r}. The training diverged; "
            "begin again with a lower --lr."
        )
    config = {
        f"{component}.{key}": value
        for component, layers in components.items()
        for key, value in _config(layers, settings).items()
    }
    about = {k: v for k, v in metadata.items() if k != METADATA} | {METADATA: _dump(config)}
    specs = {n: Spec(DTYPES["F16"], tuple(t.shape)) for n, t in tensors.items()}
    with format_for_suffix(path).create(path) as sink:
        sink.begin(specs, about)
        for name, value in tensors.items():
            sink.write(name, value.reshape(-1).view(torch.uint8).numpy().data)
    return path


def _config(layers: Sequence[str], settings: Settings) -> dict[str, Any]:
    return {
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "target_modules": sorted(layers),
        "use_dora": settings.dora,
    }


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
