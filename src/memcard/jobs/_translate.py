"""A checkpoint under the names of another dialect, and what a diffusers folder needs beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from memcard.core.checkpoint import Checkpoint
from memcard.core.views import Rearranged
from memcard.dialects import DIALECTS, Facts, Side, Translation, configs, translate
from memcard.dialects._text import WORDS
from memcard.errors import MismatchError, UsageError
from memcard.jobs._configs import FOLDER

_SIDES: Mapping[str, Side] = {"ldm": "ldm", "original": "ldm", "diffusers": "diffusers"}
_ZERO_SNR, _V_PREDICTION = "ztsnr", "v_pred"
_MARKERS = (_ZERO_SNR, _V_PREDICTION, "edm_mean", "edm_std")
_POSITIONS = "text_model.embeddings.position_embedding.weight"
_T5_LENGTH = 512  # T5 knows distances, not places: a limit of the pipelines, not of the weights
_PREDICTION = "modelspec.prediction_type"


@dataclass(frozen=True, slots=True)
class Translated:
    """A checkpoint in the dialect asked for.

    Attributes:
        checkpoint: under its new names.
        files: side files of a diffusers folder, by path; metadata for configs, bytes for the rest.
        configs: JSON files of a diffusers folder, by path.
        metadata: what marker tensors said that diffusers' names have no place for.
        notes: what a careful user should know.
    """

    checkpoint: Checkpoint
    files: Mapping[str, bytes]
    configs: Mapping[str, str]
    metadata: Mapping[str, str]
    notes: tuple[str, ...]


def side(dialect: str) -> Side:
    """Read the name of a dialect.

    Raises:
        UsageError: it is none.
    """
    if dialect.lower() not in _SIDES:
        raise UsageError(f"dialect is {dialect!r}; it can be ldm or diffusers.")
    return _SIDES[dialect.lower()]


def translated(checkpoint: Checkpoint, to: Side, *, folder: bool) -> Translated:
    """Return ``checkpoint`` under the names of ``to``; no bit changes.

    Args:
        checkpoint: of either dialect, whole or in parts.
        to: the dialect.
        folder: make the configs and tokenizers of a diffusers folder as well.

    Raises:
        MismatchError: no dictionary knows all its weights.
    """
    specs = checkpoint.specs
    found = translate(specs, to)
    renamed = Rearranged(checkpoint, found.arrangements)
    said, notes = _markers(found, checkpoint)
    if not folder:
        return Translated(renamed, {}, {}, said, notes)
    family, facts = _facts(checkpoint, found)
    if family is None:
        told = any(name.startswith(FOLDER) for name in checkpoint.metadata)
        return Translated(renamed, {}, {}, said, notes if told else (*notes, _no_config(found)))
    texts = configs(specs, family, facts)
    files = _tokenizers(family, found, renamed) if "model_index.json" in texts else {}
    return Translated(renamed, files, _with_tokenizers(texts, files), said, notes)


def _markers(found: Translation, source: Checkpoint) -> tuple[dict[str, str], tuple[str, ...]]:
    """Keep in words what tensors without weights said: how the denoiser was trained."""
    markers = [name for name in found.left_out if name in _MARKERS]
    said: dict[str, str] = {}
    if _V_PREDICTION in markers and _PREDICTION not in source.metadata:
        said = {_PREDICTION: "v"}
    if not markers:
        return said, ()
    note = (
        f"Markers left out: {', '.join(markers)}. diffusers says this in the scheduler's config, which "
        "a folder has and a single file has not."
    )
    return said, (note,)


def _no_config(found: Translation) -> str:
    return (
        f"The names fit several families ({', '.join(found.families)}), so no config is written: put "
        "the original one beside the weights."
    )


def _facts(checkpoint: Checkpoint, found: Translation) -> tuple[str | None, Facts]:
    """Say which of the fitting families it is, and what it says about its training."""
    from memcard.architectures import identify

    known = identify(checkpoint.specs, checkpoint.metadata)
    facts = Facts(known.prediction, _ZERO_SNR in checkpoint.specs)
    if len(found.families) == 1:
        return found.family, facts
    return (known.architecture if known.architecture in found.families else None), facts


def _tokenizers(family: str, found: Translation, renamed: Checkpoint) -> dict[str, bytes]:
    """Return the files of every tokenizer whose text encoder is there."""
    from memcard.generation.tokenizer_files import tokenizer_files

    files: dict[str, bytes] = {}
    for folder, name in DIALECTS[family].tokenizers.items():
        encoder = folder.replace("tokenizer", "text_encoder")
        if encoder in found.components and name == "umt5":
            files |= {
                f"{folder}/{file}": data for file, data in _own_words(renamed, encoder).items()
            }
        elif encoder in found.components:
            position = found.arrangements.get(f"{encoder}.{_POSITIONS}")
            made = tokenizer_files(name, length=position.spec.shape[0] if position else _T5_LENGTH)
            files |= {f"{folder}/{file}": text for file, text in made.items()}
    return files


def _own_words(renamed: Checkpoint, encoder: str) -> Mapping[str, bytes]:
    """Return the tokenizer that lies among the weights of a text encoder, as a folder has it; {} for none."""
    from memcard.generation.umt5_files import umt5_files

    name = f"{encoder}.{WORDS}"
    if name not in renamed.specs:
        return {}
    return umt5_files(bytes(renamed.read(name)), repr(name), length=_T5_LENGTH)


def _with_tokenizers(texts: Mapping[str, str], files: Mapping[str, bytes]) -> Mapping[str, str]:
    """List the tokenizers in model_index.json."""
    if "model_index.json" not in texts:
        return texts
    index: dict[str, Any] = json.loads(texts["model_index.json"])
    folders = dict.fromkeys(path.partition("/")[0] for path in files)
    for folder in folders:
        kind = "T5TokenizerFast" if f"{folder}/tokenizer.json" in files else "CLIPTokenizer"
        if f"{folder}/spiece.model" in files:
            kind = "PreTrainedTokenizerFast"
        index[folder] = ["transformers", kind]
    return {**texts, "model_index.json": json.dumps(index, indent=2) + "\n"}


def refuse_without_dictionary(error: MismatchError) -> MismatchError:
    """Say what a folder has to do with names, for a target that is one."""
    return MismatchError(
        f"a diffusers folder needs diffusers' names, and {error} To keep the names, write a file: "
        "end the target in .safetensors."
    )
