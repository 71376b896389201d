"""A save of `memcard finetune` as the file such a run ends in: a whole checkpoint like its base, or a LoRA."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from memcard.core.extras import require
from memcard.errors import MemcardError, MismatchError, NotFoundError
from memcard.jobs._runs_read import Opened
from memcard.jobs._runs_weights import Weights
from memcard.jobs.resolve import card_of, digest, locate, resolve
from memcard.training.saves import OpenSave

if TYPE_CHECKING:
    from memcard.training.finetune.settings import Settings

JOB: Final = "finetune"
_RESULT: Final = "memcard.finetune"
_PICTURES: Final = "ss_num_train_images"


def is_finetune(settings: Mapping[str, Any]) -> bool:
    """Whether a run is one of `memcard finetune`."""
    return settings.get("job") == JOB


def write(
    found: Opened, opened: OpenSave, chosen: Weights, out: Path, more: Mapping[str, str], name: str
) -> tuple[str, ...]:
    """Write the file; return notes.

    Args:
        found: the run.
        opened: the save.
        chosen: its weights.
        out: a .safetensors file.
        more: metadata besides what every result has; of its card the parents are taken.
        name: of the result.

    Raises:
        NotFoundError: the base is not at hand.
        MismatchError: values do not fit into the base's dtype.
    """
    require("train", what="Promoting a save of a fine-tuning")
    from torch import nn

    from memcard.jobs._finetune_models import read_base
    from memcard.jobs._finetune_result import Origin, metadata_of, write_lora, write_tuned
    from memcard.maths.torch_bridge import Bridge
    from memcard.training.finetune.adapters import bundle

    told = found.run.settings
    settings, path = _settings(told["options"]), _base(found)
    bridge, view = Bridge(chosen.view(opened)), chosen.view(opened)
    learnt = bundle({n: nn.Parameter(bridge.tensor(n).clone()) for n in view.specs})
    source = resolve(path)
    try:
        base = read_base(source, str(path))
        said = card_of(source.metadata).get("license") or source.metadata.get("modelspec.license")
        data = told.get("data", {})
        origin = Origin(
            base=str(told["base"]["name"]),
            sha256=str(told["base"]["sha256"]),
            license=str(said or "unknown"),
            data=str(data.get("name", "")),
            fingerprint=str(data.get("fingerprint", "")),
            data_license=None,
            pictures=0,
            run=opened.save.run,
        )
        loss = opened.save.metrics.get("loss", 0.0)
        facts = {"name": name, "steps": opened.save.step, "loss": round(loss, 5)}
        metadata = _with(metadata_of(base, settings, origin, **facts), more)
        if settings.rank:
            return write_lora(path, learnt, settings, out, metadata)[1]
        return write_tuned(base, learnt, out, metadata)[1]
    finally:
        source.close()


def _settings(options: Mapping[str, Any]) -> Settings:
    """Return the settings of the run; what a later version added is left out."""
    from memcard.training.finetune.settings import Settings

    known = {f.name for f in fields(Settings)}
    values = {name: value for name, value in options.items() if name in known}
    return Settings(**{**values, "prompts": tuple(values.get("prompts", ()))})


def _base(found: Opened) -> Path:
    """Return the file of the base: by the name the run noted, or by its digest."""
    told = found.run.settings["base"]
    name, sha256 = str(told["name"]), str(told["sha256"])
    seen = []
    for ref in (name, sha256):
        try:
            path = locate(ref)
        except (MemcardError, OSError):
            continue
        if digest(path) == sha256:
            return path
        seen.append(str(path))
    if seen:
        raise MismatchError(
            f"{seen[0]}: is not the {name} this run was begun with, whose SHA-256 is {sha256}. Add that one to "
            "the library: memcard add FILE."
        )
    raise NotFoundError(
        f"{name} (SHA-256 {sha256}), the base of {found.run.name}, is not at hand. Add it to the library: memcard "
        "add FILE."
    )


def _with(metadata: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """Join what the result and the promotion say. How many pictures there were is in no save."""
    result, card = json.loads(metadata[_RESULT]), json.loads(metadata["memcard.card"])
    result["data"].pop("pictures", None)
    card["parents"] = [*card["parents"], *json.loads(more["memcard.card"])["parents"]]
    card["parents"] = list(dict.fromkeys(card["parents"]))
    found = {**metadata, **more, _RESULT: _dump(result), "memcard.card": _dump(card)}
    found.pop(_PICTURES, None)
    return found


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
