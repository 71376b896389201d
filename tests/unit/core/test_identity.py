"""Equal identities mean equal bytes: told by digest, by place, or by what computes them of what."""

import os
from pathlib import Path

import numpy as np

from fixtures.small import save
from memcard.core.identity import derived, identity
from memcard.core.views import Arrangement, Part, Piece, Rearranged
from memcard.formats import open_file
from memcard.ops import OPS
from memcard.recipes.execute import evaluate
from memcard.recipes.nodes import Apply, Params, Source

ARRAYS = {"a": np.arange(8, dtype=np.float32), "b": np.zeros(8, np.float32)}


def test_a_place_is_another_after_the_file_was_written(tmp_path: Path) -> None:
    path = save(tmp_path / "x.safetensors", ARRAYS)
    with_times = []
    for time in (10**18, 10**18 + 1):
        os.utime(path, ns=(time, time))
        with_times.append(identity(open_file(path), "a"))

    assert len(set(with_times)) == 2
    assert identity(open_file(path), "a") == with_times[1] != identity(open_file(path), "b")


def test_views_pass_on_what_is_whole_and_tell_parts_apart(tmp_path: Path) -> None:
    file = open_file(save(tmp_path / "x.safetensors", ARRAYS))
    spec = file.specs["a"]
    moved = Rearranged(
        file,
        {
            "whole": Arrangement(spec, (Piece("a", 0, 32),)),
            "joined": Arrangement(spec, (Piece("a", 0, 16), Piece("b", 0, 16))),
            "other": Arrangement(spec, (Piece("b", 0, 16), Piece("a", 0, 16))),
            "turned": Arrangement(spec, (Piece("a", 0, 32),), transposed=True),
        },
    )

    assert identity(moved, "whole") == identity(Part(file, ["a"]), "a") == identity(file, "a")
    assert len({identity(moved, name) for name in moved.specs}) == 4


def test_a_recipe_is_what_computes_of_what(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{i}.safetensors", {**ARRAYS, "b": ARRAYS["b"] + i}) for i in (1, 2)]

    def made(share: float, last: int = 1) -> str | None:
        inputs = tuple(Source(str(paths[i])) for i in (0, last))
        node = Apply("weighted_average", inputs, Params({"weights": (share, 1 - share)}))
        return identity(evaluate(node, lambda leaf: open_file(Path(leaf.ref)), OPS), "b")

    assert made(0.5) == made(0.5)
    assert len({made(0.5), made(0.25), made(0.5, last=0)}) == 3


def test_a_lora_leaves_the_identity_of_what_it_does_not_touch() -> None:
    from memcard.jobs.lora import open_with_loras
    from memcard.jobs.resolve import resolve

    base = resolve("starter")
    baked = open_with_loras("starter", [("starter/lora_pixel", 0.5)])

    same = [name for name in base.specs if identity(base, name) == identity(baked, name)]

    assert 0 < len(same) < len(base.specs)
    assert any(name.startswith("first_stage_model.") for name in same)


def test_what_is_derived_depends_on_every_part_and_their_order() -> None:
    found = [
        derived("x", "a", "b"),
        derived("x", "b", "a"),
        derived("x", "ab"),
        derived("y", "a", "b"),
    ]

    assert len(set(found)) == 4
