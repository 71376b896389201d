"""Writing a diffusers folder: weights by component, configs out of metadata, side files as they are.

Source: diffusers 0.42 ``pipeline_utils.py``, ``modeling_utils.py`` (``save_pretrained``).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Self

from memcard.core.atomic import disk_errors, fsync_folder, replacing_folder
from memcard.core.checkpoint import Extent
from memcard.core.tensors import Spec, Specs
from memcard.errors import MismatchError, NotFoundError, UnsupportedError, UsageError
from memcard.formats._folder_names import (
    CONFIG,
    DIFFUSERS_STEM,
    MODEL_INDEX,
    TRANSFORMERS_STEM,
    is_part,
    is_weights,
)
from memcard.formats._planned import refuse_quantized
from memcard.formats._safetensors_header import is_unicode
from memcard.formats._shards import PYTORCH, SAFE, ShardedSink
from memcard.formats._source import is_plain_name

PREFIX = "diffusers/"  # metadata that is a file of the folder: diffusers/unet/config.json
_TRANSFORMERS = ("text_encoder", "image_encoder", "safety_checker")


class FolderSink:
    """See ``memcard.core.checkpoint.FileSink``. The folder appears whole, or not at all.

    Tensors are named ``component.key``; without ``diffusers/model_index.json`` but with
    ``diffusers/config.json`` in the metadata they are those of one model, named by their keys alone.
    Metadata that is no file goes into the weights of the first component.
    """

    def __init__(
        self, path: Path, *, max_shard: int | None = None, overwrite: bool = False
    ) -> None:
        """Announce the folder.

        Args:
            path: the folder; what holds it is there.
            max_shard: most bytes of tensors in a file; None for no limit.
            overwrite: replace a folder that has something in it.
        """
        self.path = self.result = path
        self.notes: tuple[str, ...] = ()
        self.size = 0
        self._most, self._overwrite = max_shard, overwrite
        self._files: dict[str, Path | bytes] = {}
        self._stack = ExitStack()
        self._folder: Path | None = None
        self._sinks: dict[str, tuple[ShardedSink, str]] = {}  # by tensor, with its key

    def attach(self, relative: str, source: Path | bytes) -> None:
        """Add a file that is neither weights nor metadata, such as ``tokenizer/vocab.json``.

        Raises:
            UsageError: the path leaves the folder, is taken, or is that of weights.
        """
        if not _is_inside(relative) or is_weights(PurePosixPath(relative).name):
            raise UsageError(f"{self.path}: {relative!r} cannot be a side file of it.")
        if relative in self._files:
            raise UsageError(f"{self.path}: {relative!r} is attached twice.")
        self._files[relative] = source

    def begin(self, specs: Specs, metadata: Mapping[str, str]) -> None:
        """Plan all files and reserve their space.

        Raises:
            UnsupportedError: names that are not those of diffusers; lists all faults.
            UsageError: the folder is there, and not to be replaced.
        """
        if self._folder is not None:
            raise RuntimeError(f"{self.path}: begin is called twice")
        self._refuse_present()
        refuse_quantized(self.path, specs)
        configs = {k.removeprefix(PREFIX): v for k, v in metadata.items() if k.startswith(PREFIX)}
        rest = {k: v for k, v in metadata.items() if not k.startswith(PREFIX)}
        models = _by_component(self.path, specs, configs)
        for place, text in configs.items():
            self.attach(place, text.encode())
        self._folder = self._stack.enter_context(
            replacing_folder(self.path, overwrite=self._overwrite)
        )
        self._stack.push(self._write_files)  # runs after the weights are complete
        with disk_errors(self.path):
            self._begin_models(self._folder, models, configs, rest)

    def write(self, name: str, part: memoryview, offset: int = 0) -> None:
        """Write a part of one tensor; thread-safe."""
        sink, key = self._find(name)
        sink.write(key, part, offset)

    def copy(self, name: str, source: Extent) -> None:
        """Copy a whole tensor from another file, in the kernel where it can."""
        sink, key = self._find(name)
        sink.copy(key, source)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)
        if error is None and self._folder is None:
            raise MismatchError(f"{self.path}: no tensors were announced; nothing was written.")

    def _refuse_present(self) -> None:
        if not self.path.exists():
            return
        if not self.path.is_dir():
            raise UsageError(f"{self.path}: is a file. Choose another name for the folder.")
        if any(self.path.iterdir()) and not self._overwrite:
            raise UsageError(
                f"{self.path}: is there and not empty. Choose another name, or replace it with --force, "
                "which removes everything in it."
            )

    def _begin_models(
        self,
        folder: Path,
        models: Mapping[str, Mapping[str, Spec]],
        configs: Mapping[str, str],
        rest: Mapping[str, str],
    ) -> None:
        for component, tensors in models.items():
            place = folder / component
            place.mkdir(exist_ok=True)
            config = configs.get(f"{component}/{CONFIG}" if component else CONFIG)
            path = place / (_stem(component, config) + SAFE)
            sink = ShardedSink(path, max_shard=self._most, mark=PYTORCH)
            self._stack.push(sink.__exit__)
            sink.begin(tensors, rest)
            rest = {}  # once is enough
            self.size += sink.size
            for key in tensors:
                self._sinks[f"{component}.{key}" if component else key] = sink, key
        self.size += sum(
            len(source) if isinstance(source, bytes) else source.stat().st_size
            for source in self._files.values()
        )

    def _write_files(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None or self._folder is None:
            return
        for relative, source in self._files.items():
            target = self._folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            with disk_errors(self.path), target.open("xb") as file:
                if isinstance(source, bytes):
                    file.write(source)
                else:
                    with source.open("rb") as original:
                        shutil.copyfileobj(original, file)
                file.flush()
                os.fsync(file.fileno())
        fsync_folder(self._folder)

    def _find(self, name: str) -> tuple[ShardedSink, str]:
        if self._folder is None:
            raise RuntimeError(f"{self.path}: begin comes before write")
        try:
            return self._sinks[name]
        except KeyError:
            raise NotFoundError(f"{self.path}: {name!r} was not announced by begin.") from None


def _by_component(
    path: Path, specs: Specs, configs: Mapping[str, str]
) -> dict[str, dict[str, Spec]]:
    faults = [
        f"{PREFIX}{place} is no path in the folder" for place in configs if not _is_inside(place)
    ]
    faults += [
        f"{PREFIX}{p} is not valid Unicode" for p, text in configs.items() if not is_unicode(text)
    ]
    models: dict[str, dict[str, Spec]] = {}
    strange = []
    if MODEL_INDEX not in configs and CONFIG in configs:
        models[""] = dict(specs)
    else:
        known = {str(PurePosixPath(place).parent) for place in configs if place.count("/") == 1}
        for name, spec in specs.items():
            component, _, key = name.partition(".")
            if key and is_plain_name(component) and (component in known or is_part(component)):
                models.setdefault(component, {})[key] = spec
            else:
                strange.append(name)
    if strange:
        faults.append(
            f"{len(strange)} tensors do not begin with the name of a part such as 'unet.' or "
            f"'text_encoder.' ({', '.join(repr(n) for n in strange[:3])})"
        )
    if faults:
        raise UnsupportedError(
            f"{path}: cannot be a diffusers folder: {'; '.join(faults[:5])}. --dialect diffusers "
            "gives the names it needs, or end the name in .safetensors.",
            faults=faults,
        )
    return models


def _stem(component: str, config: str | None) -> str:
    """Return how the library that made the model names its weights."""
    try:
        found: Any = json.loads(config or "null")
    except ValueError:
        found = None
    if isinstance(found, dict) and "_class_name" in found:
        return DIFFUSERS_STEM
    if isinstance(found, dict) and ("architectures" in found or "model_type" in found):
        return TRANSFORMERS_STEM
    return TRANSFORMERS_STEM if component.startswith(_TRANSFORMERS) else DIFFUSERS_STEM


def _is_inside(relative: str) -> bool:
    """Whether a path with slashes stays in the folder, on every system."""
    parts = relative.split("/")
    return len(parts) <= 4 and all(map(is_plain_name, parts)) and is_unicode(relative)
