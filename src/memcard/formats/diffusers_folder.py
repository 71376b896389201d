"""A folder as diffusers' ``save_pretrained`` writes it: a pipeline, or one model of it.

A pipeline's tensors are named ``unet.conv_in.weight``, those of a lone model ``conv_in.weight``. Configs
are metadata (``diffusers/unet/config.json``); tokenizers and the like are ``files``. Of several variants
the plain one is read, as diffusers does.

Source: https://huggingface.co/docs/diffusers/using-diffusers/other-formats
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from memcard.core.checkpoint import Checkpoint, Extent
from memcard.core.tensors import Spec, Specs
from memcard.errors import (
    CorruptError,
    FormatError,
    NotFoundError,
    UnsafeError,
    UnsupportedError,
)
from memcard.formats._choose import SINGLE, open_file
from memcard.formats._folder_files import is_class, list_files, read_config, side_files
from memcard.formats._folder_names import (
    MODEL_INDEX,
    PICKLES,
    Weights,
    is_component,
    is_part,
    is_pipeline,
    weights,
)
from memcard.formats._folder_sink import FolderSink
from memcard.formats._shards import PYTORCH

_MOST_PARTS = 64
_FORMATS = (*SINGLE, "sharded")


class DiffusersFolder:
    """An open folder; the headers of all weights were read, no tensor.

    Attributes:
        parts: the files (or indexes) the tensors are in.
        files: side files that are neither weights nor configs, by their path in the folder.
        training_state: names of tensors that belong to no model.
        other: content of the weights that is not tensors.
    """

    format = "diffusers_folder"

    def __init__(self, path: Path, *, salvage: bool = False) -> None:
        self._path, self._salvage = path, salvage
        self._notes: list[str] = []
        self._errors: list[FormatError] = []
        self._models: dict[str, Checkpoint] = {}  # by component, "" for a lone one
        self._where: dict[str, tuple[str, str]] = {}
        self._listing = list_files(path)
        self._configs, files = side_files(path, self._listing, self._notes)
        folders = [str(folder) for folder in self._listing if len(folder.parts) == 1]
        names = frozenset([*self._listing[Path()], *folders])
        chosen = self._pipeline() if is_pipeline(names) else self._lone(names)
        try:
            self._open(chosen)
            self._judge(chosen)
        except BaseException:
            self.close()
            raise
        self.specs: Specs = self._collect()
        self.metadata: Mapping[str, str] = self._metadata() | self._configs
        self.files: Mapping[str, Path] = files
        self.parts = tuple(path / place for place in chosen.values())
        self.training_state: Sequence[str] = self._named("training_state")
        self.other: Sequence[str] = self._named("other")
        self.notes: Sequence[str] = tuple(dict.fromkeys(self._notes))

    def read(self, name: str) -> memoryview:
        """Return one tensor's bytes, read-only."""
        model, key = self._find(name)
        return model.read(key)

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        """Fill ``into`` with the bytes of one tensor from ``offset`` on."""
        model, key = self._find(name)
        model.readinto(key, into, offset)

    def extent(self, name: str) -> Extent | None:
        """Say where the bytes lie, as the file they are in does."""
        model, key = self._find(name)
        return model.extent(key)

    def check_unchanged(self) -> None:
        """Raise IntegrityError if a file of weights was written to since it was opened."""
        for model in self._models.values():
            model.check_unchanged()  # type: ignore[attr-defined]  # every format of ours has it

    def close(self) -> None:
        """Give the handles back."""
        for model in self._models.values():
            model.close()

    def _pipeline(self) -> dict[str, Path]:
        """Choose the weights of every part, in the order of model_index.json."""
        index = (
            read_config(self._path / MODEL_INDEX) if MODEL_INDEX in self._listing[Path()] else {}
        )
        listed = [name for name, kind in index.items() if is_class(kind)]
        folders = [str(folder) for folder in self._listing if len(folder.parts) == 1]
        if not index:
            self._notes.append(
                "There is no model_index.json; the parts are known by their folders."
            )
            listed = [name for name in sorted(folders) if is_part(name)]
        chosen = {}
        for name in listed:
            if name not in folders:
                self._notes.append(f"{MODEL_INDEX} names {name!r}, but there is no such folder.")
            elif best := self._best(Path(name)):
                chosen[name] = best
        rest = [n for n in folders if n not in listed and weights(self._listing[Path(n)])]
        if rest:
            self._notes.append(f"Folders that are no part of the pipeline: {', '.join(rest)}.")
        if loose := [choice.name for choice in weights(self._listing[Path()])]:
            self._notes.append(f"Beside the pipeline lie other checkpoints: {', '.join(loose)}.")
        if not chosen:
            parts = ", ".join(repr(name[:80]) for name in listed[:8]) or "none"
            raise UnsupportedError(
                f"{self._path}: is a diffusers folder without weights (its parts: {parts}). Download "
                "them as well: *.safetensors in its subfolders."
            )
        return dict(list(chosen.items())[:_MOST_PARTS])

    def _lone(self, names: frozenset[str]) -> dict[str, Path]:
        best = self._best(Path())
        if best is None:
            raise UnsupportedError(
                f"{self._path}: is a folder without weights ({len(names)} other files)."
            )
        return {"": best}

    def _best(self, folder: Path) -> Path | None:
        offered = weights(self._listing[folder])
        if not offered:
            return None
        best, *others = offered
        if others:
            where = f"{folder}: " if folder.parts else ""
            self._notes.append(
                f"{where}{best.name} is read, {_few(others)} not. Name the file to read another."
            )
        return folder / best.name

    def _open(self, chosen: Mapping[str, Path]) -> None:
        for name, place in chosen.items():
            try:
                self._models[name] = open_file(
                    self._path / place, salvage=self._salvage, among=_FORMATS
                )
            except FormatError as error:
                self._errors.append(error)
            except NotFoundError:
                self._errors.append(CorruptError(f"{self._path / place}: is a link to nowhere."))

    def _judge(self, chosen: Mapping[str, Path]) -> None:
        """Refuse a folder with a file that others would run, even if it is not read here.

        Raises:
            UnsafeError, CorruptError, UnsupportedError: the gravest of what was found; lists all.
        """
        for folder, names in self._listing.items():
            for name in names:
                place = folder / name
                if place in chosen.values() or not name.lower().endswith(PICKLES):
                    continue
                try:
                    open_file(self._path / place, among=SINGLE).close()
                except UnsafeError as error:
                    self._errors.append(error)
                    self._notes.append(f"{place} asks to run code. It is not read.")
                except (FormatError, NotFoundError):
                    continue  # not read: what is wrong with it hurts nobody
        code = [
            str(f / n) for f, names in self._listing.items() for n in names if n.endswith(".py")
        ]
        if code:
            self._notes.append(
                f"Programs lie in the folder ({', '.join(code[:3])}); loaders run them when told "
                "trust_remote_code. Nothing here does."
            )
        for kind in (UnsafeError, CorruptError, UnsupportedError):
            first = [error for error in self._errors if isinstance(error, kind)]
            if first and not (kind is UnsafeError and self._salvage):
                faults = [fault for error in self._errors for fault in error.faults]
                more = f" (and {len(self._errors) - 1} more)" if len(self._errors) > 1 else ""
                raise kind(f"{self._path}: {first[0]}{more}", faults=faults)

    def _collect(self) -> dict[str, Spec]:
        specs: dict[str, Spec] = {}
        for component, model in self._models.items():
            for key, spec in model.specs.items():
                name = f"{component}.{key}" if component else key
                specs[name] = spec
                self._where[name] = component, key
            self._notes += [f"{component}: {n}" if component else n for n in model.notes]
        return specs

    def _metadata(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for model in self._models.values():
            for key, text in model.metadata.items():
                if PYTORCH.get(key) != text:  # says that torch wrote the file, nothing of the model
                    found.setdefault(key, text)
        return found

    def _named(self, attribute: str) -> tuple[str, ...]:
        return tuple(
            f"{component}.{name}" if component else name
            for component, model in self._models.items()
            for name in getattr(model, attribute, ())
        )

    def _find(self, name: str) -> tuple[Checkpoint, str]:
        try:
            component, key = self._where[name]
        except KeyError:
            raise NotFoundError(f"{self._path}: has no tensor {name!r}.") from None
        return self._models[component], key


def _few(choices: Sequence[Weights], most: int = 3) -> str:
    more = f" and {len(choices) - most} more" if len(choices) > most else ""
    return ", ".join(choice.name for choice in choices[:most]) + more


TITLE = "a diffusers folder"


class _Format:
    title = TITLE
    suffixes = ()  # a folder has none; see formats.names_folder
    source = "https://huggingface.co/docs/diffusers/using-diffusers/other-formats"

    def sniff(self, head: bytes) -> bool:
        """Never: this format is a folder."""
        return False

    def sniff_folder(self, names: frozenset[str]) -> bool:
        """A pipeline, or one model with its config."""
        return is_pipeline(names) or is_component(names)

    def open(self, path: Path, *, salvage: bool = False) -> DiffusersFolder:
        """Read the configs and the headers of all weights."""
        return DiffusersFolder(path, salvage=salvage)

    def create(self, path: Path) -> FolderSink:
        """Return a sink; ``formats.create`` takes options."""
        return FolderSink(path)


PLUGIN = _Format()
