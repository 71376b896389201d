"""Give a LoRA the names of kohya, PEFT or diffusers. Factors keep their bits."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from memcard.core.atomic import replacing, replacing_folder
from memcard.core.progress import Listener, Progress, silent
from memcard.errors import UsageError
from memcard.formats import format_for_suffix, names_folder
from memcard.jobs._lora_alpha import CONFIG, METADATA
from memcard.jobs._lora_book import TARGETS
from memcard.jobs._lora_file import said
from memcard.jobs._lora_folder import WEIGHTS, lora_files
from memcard.jobs._lora_parts import Made, tensors
from memcard.jobs._lora_plan import ALPHA_DTYPE, Plan
from memcard.jobs._output import refuse_output
from memcard.jobs.resolve import node_for, resolve
from memcard.recipes.nodes import Apply, Params

CARD = "memcard.card"
_NOT_KEPT = ("memcard.", METADATA, "format", "sshs_", "modelspec.hash")


@dataclass(frozen=True, slots=True)
class Converted:
    """A LoRA under other names.

    Attributes:
        out: the file or folder.
        to: whose names it has.
        family: whose dictionary was used.
        modules: number of modules.
        joined: how many of them were put together of several, or are a part of one.
        nbytes: of all tensors.
        notes: what a careful user should know, one sentence each.
    """

    out: Path
    to: str
    family: str
    modules: int
    joined: int
    nbytes: int
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as JSON values."""
        return {**asdict(self), "out": str(self.out), "notes": list(self.notes)}


def lora_convert(
    ref: str | Path,
    out: str | Path,
    *,
    to: str,
    family: str | None = None,
    base: str | Path | None = None,
    fold_alpha: bool = False,
    overwrite: bool = False,
    digests: bool = True,
    progress: Listener = silent,
) -> Converted:
    """Write a LoRA in the names of another program; what it changes stays the same.

    Factors keep their bits. Where one side has query, key and value as one matrix and the other as
    three, rows are split or joined. kohya's alphas become PEFT's configuration: in the metadata of a
    file, as diffusers reads it, or in ``adapter_config.json`` of a folder.

    Args:
        ref: path or name; also a folder that PEFT wrote.
        out: file to write; for PEFT also a folder, with one folder inside for each component if
            there are several.
        to: kohya, peft or diffusers.
        family: of the base (sd1, sd2, sdxl, sd3, flux), where the file does not tell.
        base: a checkpoint to take the names from; for models of unusual size.
        fold_alpha: multiply alpha / rank into a factor for programs that look for no configuration.
            Exact if it is a power of two; the result says how many values were rounded.
        overwrite: replace what is there.
        digests: record the SHA-256 of the input.
        progress: hears how far it is.

    Raises:
        MismatchError: the other program has no words for something; lists all of it.
        UsageError: an argument is none of the above, or ``out`` is there already.
    """
    target = next((name for name in TARGETS if name == to), None)
    if target is None:
        raise UsageError(f"to: {to!r}; a LoRA is converted to {', '.join(TARGETS)}.")
    folder = names_folder(out)
    if folder and target != "peft":
        raise UsageError(f"{out}: only PEFT keeps a LoRA in a folder. Name a .safetensors file.")
    paths, path = lora_files(ref), Path(out).expanduser()
    nodes = tuple(node_for(p, digests=digests, progress=progress) for p in paths.values())
    job = Apply("lora_convert", nodes, Params({"to": to, "fold_alpha": fold_alpha}))
    if not (folder and path.is_dir()):
        refuse_output(path, job, overwrite=overwrite)
    with ExitStack() as stack:
        loras = {part: resolve(p) for part, p in paths.items()}
        known = [] if base is None else [resolve(base)]
        for checkpoint in (*loras.values(), *known):
            stack.callback(checkpoint.close)
        plan = Plan(loras, paths, target, family=family, base=known[0] if known else None)
        if fold_alpha:
            plan.fold()
        output = _Output(plan, job, next(iter(loras.values())).metadata, progress)
        nbytes = output.folder(path, overwrite=overwrite) if folder else output.file(path)
    return Converted(
        *(path, to, plan.book.family, len(plan.made), plan.joined, nbytes),
        notes=tuple(output.notes()),
    )


class _Output:
    """The file or folder a plan becomes."""

    def __init__(
        self, plan: Plan, job: Apply, metadata: Mapping[str, str], progress: Listener
    ) -> None:
        self._plan, self._job, self._progress = plan, job, progress
        self._kept = {k: v for k, v in metadata.items() if not k.startswith(_NOT_KEPT)}
        self._card = metadata.get(CARD)  # the same LoRA, so what is said about it stays true
        self._alphas = any(made.alpha is not None for made in plan.made)
        self._components = tuple(dict.fromkeys(made.name.component for made in plan.made))

    def file(self, path: Path) -> int:
        """Write one file."""
        metadata = self._said()
        if self._plan.target != "kohya" and self._alphas:
            lone = self._plan.target == "peft" and len(self._components) == 1
            metadata[METADATA] = json.dumps(
                {
                    key if lone else f"{component}.{key}": value
                    for component in self._components
                    for key, value in configuration(self._of(component)).items()
                },
                sort_keys=True,
            )
        return self._write(path, self._plan.made, metadata)

    def folder(self, path: Path, *, overwrite: bool) -> int:
        """Write PEFT's folder, with one inside for each component if there are several."""
        if path.is_dir() and any(path.iterdir()) and not overwrite:
            raise UsageError(f"{path}: is there already. Choose another name, or use --force.")
        nbytes = 0
        with replacing_folder(path, overwrite=overwrite) as new:
            for component in self._components:
                inside = new if len(self._components) == 1 else new / component
                inside.mkdir(exist_ok=True)
                made = self._of(component)
                nbytes += self._write(inside / f"{WEIGHTS}.safetensors", made, self._said())
                with replacing(inside / CONFIG) as file:
                    file.write(json.dumps(_PEFT | configuration(made), indent=2).encode())
        return nbytes

    def notes(self) -> Iterator[str]:
        """Tell what a careful user should know."""
        yield from self._plan.notes
        odd = sum(made.alpha not in (None, made.rank) for made in self._plan.made)
        if odd and self._plan.target != "kohya":
            yield (
                f"alpha is not the rank in {odd} modules. It is kept in the configuration, which PEFT, "
                "diffusers and memcard read; for programs that do not, use --fold-alpha."
            )
        if self._plan.target == "peft" and len(self._components) > 1:
            yield (
                f"There are several components ({', '.join(self._components)}); PEFT itself loads one "
                "at a time, from a folder."
            )

    def _of(self, component: str) -> list[Made]:
        return [made for made in self._plan.made if made.name.component == component]

    def _said(self) -> dict[str, str]:
        dtype = self._plan.alpha_dtype()
        spared = {} if dtype is None else {ALPHA_DTYPE: json.dumps({"dtype": dtype})}
        about = {**self._kept, **said(self._job), **spared}
        return about | ({CARD: self._card} if self._card else {})

    def _write(self, path: Path, made: Sequence[Made], metadata: Mapping[str, str]) -> int:
        wrapped = len({m.name.component for m in self._plan.made}) > 1
        wrapped = wrapped and path.name != f"{WEIGHTS}.safetensors"
        parts = {
            name: part
            for m in made
            for name, part in tensors(
                m,
                self._plan.book.write(m.name, self._plan.target, wrapped=wrapped),
                self._plan.target,
            )
        }
        specs = {name: part.spec for name, part in parts.items()}
        with format_for_suffix(path).create(path) as sink:
            sink.begin(specs, metadata)
            for done, (name, part) in enumerate(parts.items()):
                self._progress(Progress("convert", done, len(parts), "steps"))
                sink.write(name, memoryview(part.read()))
        return sum(spec.nbytes for spec in specs.values())


_PEFT: dict[str, Any] = {
    "peft_type": "LORA",
    "task_type": None,
    "base_model_name_or_path": None,
    "inference_mode": True,
    "bias": "none",
    "lora_dropout": 0.0,
    "fan_in_fan_out": False,
}


def configuration(made: Sequence[Made]) -> dict[str, Any]:
    """Return the fields of PEFT's LoraConfig that tell what factors cannot."""
    ranks = {m.name.bare: m.rank for m in made}
    alphas = {m.name.bare: float(m.rank if m.alpha is None else m.alpha) for m in made}
    rank, alpha = (Counter(found.values()).most_common(1)[0][0] for found in (ranks, alphas))
    plain = float(alpha).is_integer()
    return {
        "r": rank,
        "lora_alpha": int(alpha) if plain else alpha,
        "rank_pattern": {_exact(n, ranks): r for n, r in ranks.items() if r != rank},
        "alpha_pattern": {_exact(n, alphas): a for n, a in alphas.items() if a != alpha},
        "target_modules": sorted(ranks),
        "use_dora": any("dora" in m.parts or "magnitude" in m.parts for m in made),
        "use_rslora": False,
        # Older versions of PEFT do not know the key.
        **({"lora_bias": True} if any("bias" in m.parts for m in made) else {}),
    }


def _exact(name: str, names: Mapping[str, Any]) -> str:
    """Return a pattern of PEFT's for one name: without ``^`` it fits longer names that end so, too."""
    return f"^{name}" if any(other.endswith(f".{name}") for other in names) else name
