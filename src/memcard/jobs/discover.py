"""What a checkpoint was made from: find the cast, the merge or the LoRA bake that gives its bits.

The candidates are given. Sampled values say which weighted sum of them the checkpoint is, where each tensor
may also be one of theirs as it stands; then every value is computed and compared. The answer is a recipe:
with it, and with the few values that differ, the checkpoint can be made again.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from memcard.core.atomic import replacing
from memcard.core.checkpoint import Checkpoint
from memcard.core.progress import Listener, Progress, silent
from memcard.errors import UsageError
from memcard.jobs._discover_loras import is_lora, with_loras
from memcard.jobs._discover_sample import take
from memcard.jobs._discover_sums import Guess, guesses
from memcard.jobs._library_refs import stored
from memcard.jobs.resolve import node_for, open_source, resolve
from memcard.ops import OPS
from memcard.recipes.execute import RecipeCheckpoint, evaluate
from memcard.recipes.nodes import Node
from memcard.recipes.text import recipe_id, to_json

_CHUNK = 4 << 20


@dataclass(frozen=True)
class Discovered:
    """How a checkpoint can be made again.

    Attributes:
        title: in one line, such as ``0.7 A + 0.3 B``.
        recipe: of the same tensors.
        values: how many values of floats it has.
        different: how many of them the recipe makes otherwise; None if that was not counted.
        worst: names of the tensors with the most such values, and how many.
        missing: tensors no candidate has; the recipe does not make them.
    """

    title: str
    recipe: Node
    values: int
    different: int | None = None
    worst: tuple[tuple[str, int], ...] = ()
    missing: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether the recipe gives the checkpoint bit for bit."""
        return self.different == 0 and not self.missing

    @property
    def verdict(self) -> str:
        """How exact that is, to go behind the title."""
        if self.different is None:
            return " (sampled only)"
        if self.different == 0:
            return ", exact"
        return f", exact but for {self.different:,} of {self.values:,} values"

    def to_dict(self) -> dict[str, object]:
        """Return what ``--json`` prints."""
        return {
            "title": self.title,
            "recipe_id": recipe_id(self.recipe),
            "recipe": to_json(self.recipe),
            "values": self.values,
            "different": self.different,
            "exact": self.exact,
            "worst": [{"name": n, "different": d} for n, d in self.worst],
            "missing": list(self.missing),
        }


@dataclass
class _Job:
    target: Checkpoint
    refs: list[str]
    nodes: list[Node]
    parents: list[Checkpoint]
    loras: list[tuple[str, Node, Checkpoint]] = field(default_factory=list)


def discover(
    ref: str | Path,
    candidates: Sequence[str | Path],
    *,
    full: bool = True,
    digests: bool = True,
    progress: Listener = silent,
) -> Discovered | None:
    """Find out how a checkpoint was made from some others; None if it was not, or not in a known way.

    Found are casts, weighted sums (merges, averages, EMA, add difference) of up to three of the
    candidates or of all, with parts taken over unchanged, weights that differ from block to block, and
    LoRAs baked into one of them; in our own arithmetic or in that of common scripts.

    Args:
        ref: the checkpoint in question.
        candidates: what it may have been made from, LoRAs too; names of tensors must be the same.
        full: compute every value and count those that differ; else only sampled ones are looked at.
        digests: record the SHA-256 of the candidates in the recipe.
        progress: hears how far the counting is.

    Raises:
        FormatError: a file cannot be read.
        NotFoundError: a name means nothing.
        UsageError: no candidates.
    """
    if not candidates:
        raise UsageError("discover: name at least one checkpoint it may have been made from.")
    with ExitStack() as stack:
        job = _open(stack, ref, candidates, digests)
        guess = _best(job)
        if guess is None:
            return None
        found = Discovered(
            guess.title, guess.node, _floats(job.target), missing=_lacking(job, guess)
        )
        if not full:
            return found
        return _counted(job.target, found, progress)


def _open(
    stack: ExitStack, ref: str | Path, candidates: Sequence[str | Path], digests: bool
) -> _Job:
    target = resolve(ref)
    stack.callback(target.close)
    job = _Job(target, [], [], [])
    for candidate in candidates:
        node = node_for(candidate, digests=digests)
        checkpoint = evaluate(node, open_source, OPS)
        stack.callback(checkpoint.close)
        if is_lora(checkpoint):
            job.loras.append((_called(candidate), node, checkpoint))
        else:
            job.refs.append(_called(candidate))
            job.nodes.append(node)
            job.parents.append(checkpoint)
    return job


def _called(candidate: str | Path) -> str:
    """Return what people know a candidate by: its name in the library, or that of its file."""
    if (found := stored(candidate)) is not None:
        _, ref, version = found
        return ref.name if version is ref.version else f"{ref.name}@{version.sha256[:8]}"
    path = Path(candidate)
    return path.stem if path.suffix and path.expanduser().exists() else str(candidate)


def _best(job: _Job) -> Guess | None:
    samples = take(job.target, job.parents)
    best = guesses(samples, job.refs, job.nodes, job.target)
    if best is None or best.right < 1:
        baked = with_loras(job.target, job.parents, job.refs, job.nodes, job.loras)
        if baked is not None and (best is None or baked.right > best.right):
            return baked
    return best


def _floats(target: Checkpoint) -> int:
    return sum(s.elements for s in target.specs.values() if s.dtype.is_float)


def _lacking(job: _Job, guess: Guess) -> tuple[str, ...]:
    made = evaluate(guess.node, open_source, OPS)
    names = tuple(n for n, s in job.target.specs.items() if made.specs.get(n) != s)
    made.close()
    return names


def _counted(target: Checkpoint, found: Discovered, progress: Listener) -> Discovered:
    """Compute every tensor and count the values that are not the target's."""
    made = evaluate(found.recipe, open_source, OPS)
    wrong: dict[str, int] = {}
    names = [n for n in target.specs if n not in found.missing]
    total, done = sum(target.specs[n].nbytes for n in names), 0
    try:
        for name in names:
            wrong[name] = _different(target, made, name)
            done += target.specs[name].nbytes
            progress(Progress("compare", done, total))
    finally:
        made.close()
    worst = sorted(((n, d) for n, d in wrong.items() if d), key=lambda pair: -pair[1])
    return Discovered(
        found.title,
        found.recipe,
        found.values,
        sum(wrong.values()),
        tuple(worst[:10]),
        found.missing,
    )


def _different(target: Checkpoint, made: Checkpoint, name: str) -> int:
    import numpy as np

    spec = target.specs[name]
    item = spec.dtype.block_bytes
    step = spec.nbytes
    if isinstance(made, RecipeCheckpoint):
        step = made.piece(name, _CHUNK)
    else:
        step = max(item, _CHUNK // item * item)
    different = 0
    for at in range(0, spec.nbytes, step):
        size = min(step, spec.nbytes - at)
        mine, theirs = (memoryview(bytearray(size)) for _ in range(2))
        target.readinto(name, mine, at)
        made.readinto(name, theirs, at)
        if mine != theirs:
            pair = [np.frombuffer(m, np.uint8).reshape(-1, item) for m in (mine, theirs)]
            different += int(np.count_nonzero((pair[0] != pair[1]).any(axis=1)))
    return different


def save_recipe(found: Discovered, path: Path) -> None:
    """Write the recipe as JSON, as ``memcard bake`` reads it."""
    with replacing(path) as file:
        file.write(to_json(found.recipe).encode())
