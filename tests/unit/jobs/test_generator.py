"""A generator that stays: the same pictures as a fresh load gives, and only what differs is read."""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import memcard
from fixtures import small
from memcard.core.progress import Event, Notice
from memcard.errors import MemcardError, NotFoundError, UsageError
from memcard.generation.finite import TILED_FROM, tiles
from memcard.generation.settings import Settings
from memcard.jobs._generate_models import Models, Wanted
from memcard.jobs.generate import run
from memcard.jobs.resolve import locate

QUICK: dict[str, Any] = {"steps": 2, "seed": 5}
LORA = "starter/lora_pixel"


def digest(result: Any) -> str:
    return hashlib.sha256(result.pictures[0].image.tobytes()).hexdigest()


def fresh(checkpoint: str | Path = "starter", **more: Any) -> str:
    return digest(run("a rocket", checkpoint, device="cpu", dtype="F32", **QUICK, **more))


@pytest.fixture
def generator() -> Iterator[memcard.Generator]:
    with memcard.Generator(device="cpu", dtype="F32") as found:
        yield found


def read_bytes(generator: memcard.Generator) -> int:
    return generator._models.cache.read_bytes


@pytest.mark.parametrize("budget", [0, None], ids=["in place", "kept"])
def test_a_swap_gives_the_pictures_of_a_fresh_load(budget: int | None) -> None:
    order = ("starter", "starter/raw", "starter", "starter/stencil", "starter/raw")
    with memcard.Generator(device="cpu", dtype="F32", budget=budget) as generator:
        found = [digest(generator.run("a rocket", name, **QUICK)) for name in order]

    alone = {name: fresh(name) for name in dict.fromkeys(order)}
    assert found == [alone[name] for name in order]
    assert len(set(alone.values())) == 3


def test_coming_back_reads_nothing(generator: memcard.Generator) -> None:
    generator.run("a rocket", **QUICK)
    generator.run("a rocket", "starter/raw", **QUICK)
    before = read_bytes(generator)

    generator.run("a rocket", **QUICK)

    assert read_bytes(generator) == before


def test_a_lora_on_off_on_reads_what_it_touches_once(generator: memcard.Generator) -> None:
    off = digest(generator.run("a rocket", **QUICK))
    base = read_bytes(generator)
    on = digest(generator.run("a rocket", loras=[(LORA, 0.8)], **QUICK))
    touched = read_bytes(generator) - base

    again = [
        digest(generator.run("a rocket", loras=loras, **QUICK)) for loras in ([], [(LORA, 0.8)])
    ]

    assert again == [off, on]
    assert on == fresh(loras=[(LORA, 0.8)])
    assert 0 < touched < base
    assert read_bytes(generator) - base == touched


def test_another_strength_is_another_weight(generator: memcard.Generator) -> None:
    found = {digest(generator.run("a rocket", loras=[(LORA, s)], **QUICK)) for s in (0.3, 0.8)}

    assert found == {fresh(loras=[(LORA, s)]) for s in (0.3, 0.8)}
    assert len(found) == 2


def test_a_vae_that_is_swapped_leaves_the_rest_alone(generator: memcard.Generator) -> None:
    generator.run("a rocket", **QUICK)
    before = read_bytes(generator)

    found = digest(generator.run("a rocket", vae="starter/vae_crisp", **QUICK))

    assert read_bytes(generator) - before < before / 8
    assert found == fresh(vae="starter/vae_crisp")


def test_a_packed_checkpoint_swaps_like_a_plain_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generator: memcard.Generator
) -> None:
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    library = memcard.Library(tmp_path / "home")
    for name in ("base", "raw"):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(locate(f"starter/{name}").read_bytes())
        library.add([path], how="move")
        library.pack(name)

    found = [digest(generator.run("a rocket", name, **QUICK)) for name in ("base", "raw", "base")]

    assert not (tmp_path / "raw.safetensors").exists()
    assert found == [fresh(), fresh("starter/raw"), fresh()]


def test_a_file_the_library_knows_is_the_same_as_what_was_packed_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generator: memcard.Generator
) -> None:
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    library = memcard.Library(tmp_path / "home")
    path = tmp_path / "mine.safetensors"
    path.write_bytes(locate("starter").read_bytes())
    library.add([path], how="move")
    out = tmp_path / "out.safetensors"
    library.export("mine", out)
    os.utime(out, ns=(10**18, 10**18))
    library.add([out])
    generator.run("a rocket", "mine", **QUICK)
    before = read_bytes(generator)

    generator.run("a rocket", out, **QUICK)

    assert read_bytes(generator) == before


def test_a_checkpoint_that_cannot_be_loaded_does_no_harm(generator: memcard.Generator) -> None:
    before = digest(generator.run("a rocket", **QUICK))

    with pytest.raises(NotFoundError):
        generator.run("a rocket", "starter/nonsense", **QUICK)
    with pytest.raises(MemcardError):
        generator.run("a rocket", vae=LORA, **QUICK)

    assert digest(generator.run("a rocket", **QUICK)) == before


def test_runs_of_several_threads_wait_for_each_other(generator: memcard.Generator) -> None:
    names = ["starter", "starter/raw"] * 3
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda n: digest(generator.run("a rocket", n, **QUICK)), names))

    assert found == [fresh(), fresh("starter/raw")] * 3


def test_with_little_memory_the_text_encoder_goes_before_the_steps_begin() -> None:
    kept: list[int] = []
    with memcard.Generator(device="cpu", dtype="F32", low_memory=True) as generator:
        cache = generator._models.cache
        found = [
            digest(generator.run("a rocket", preview=lambda _: kept.append(cache.nbytes), **QUICK))
            for _ in range(2)
        ]
        pipeline = generator._models.get(Wanted("starter")).pipeline
        text = sum(p.nbytes for p in pipeline.modules["text_encoder"].parameters())
        assert set(kept) == {cache.nbytes - text}

    assert found == [fresh(), fresh()]


def test_what_was_said_for_all_runs_is_not_said_for_one(generator: memcard.Generator) -> None:
    with pytest.raises(UsageError, match="device, dtype: said when the generator is made"):
        generator.run("a rocket", device="cpu", dtype="F32")


def test_a_closed_generator_says_so() -> None:
    generator = memcard.Generator()
    generator.close()

    with pytest.raises(UsageError, match="closed"):
        generator.generate("a rocket")


def test_a_budget_below_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="budget of -1 bytes"):
        memcard.Generator(budget=-1)


def wild(tmp_path: Path, name: str, factor: float) -> Path:
    """The starter with one tensor made so large that float16 does not hold it."""
    arrays = small.load(locate("starter"))
    found = {n: a.astype(np.float32) for n, a in arrays.items()}
    found[name] = found[name] * np.float32(factor)
    metadata = dict(memcard.open(locate("starter")).metadata)
    return small.save(tmp_path / "wild.safetensors", found, metadata)


def test_a_vae_that_overflows_decodes_in_float32(tmp_path: Path) -> None:
    path = wild(tmp_path, "first_stage_model.decoder.conv_in.weight", 1e7)
    seen: list[Event] = []

    result = run("a rocket", path, device="cpu", dtype="F16", n=2, progress=seen.append, **QUICK)

    notices = [e.text for e in seen if isinstance(e, Notice)]
    assert sum("The VAE overflows in float16; it decodes in float32." in n for n in notices) == 1
    assert all(len(p.image.getcolors(5000) or [0] * 100) > 50 for p in result.pictures)


def test_steps_without_numbers_name_the_step_and_the_remedy(tmp_path: Path) -> None:
    path = wild(tmp_path, "model.diffusion_model.input_blocks.0.0.weight", 1e7)

    with pytest.raises(UsageError, match=r"step 1 of 2: .* in float16.*--dtype F32"):
        run("a rocket", path, device="cpu", dtype="F16", **QUICK)


def test_large_pictures_are_decoded_in_tiles_and_no_others() -> None:
    models = Models("cpu", "F32")
    pipeline = models.get(Wanted("starter")).pipeline
    found = []
    for width, height in ((2048, 2048), (2048, 2056), (64, 64)):
        settings = Settings.__new__(Settings)
        object.__setattr__(settings, "width", width)
        object.__setattr__(settings, "height", height)
        with tiles(pipeline, settings):
            found.append(pipeline.vae.use_tiling)
    models.close()

    assert found == [False, True, False]
    assert TILED_FROM == 2048 * 2048 + 1
    assert not pipeline.vae.use_tiling
    assert torch.get_num_threads() >= 1
