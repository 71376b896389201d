"""What a run would use is what it then uses, and no weight is read for saying so."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fixtures import flow_models
from fixtures.diffusers_models import save
from fixtures.sd15 import write_safetensors
from memcard.errors import MismatchError, NotFoundError, UsageError
from memcard.formats.safetensors import Safetensors
from memcard.generation.settings import Settings
from memcard.jobs import _generate_plan
from memcard.jobs._generate_memory import PROGRAM, Memory, work_of
from memcard.jobs._generate_models import Models, Wanted
from memcard.jobs._generate_plan import _short, plan
from memcard.jobs.add import add
from memcard.jobs.generate import run
from memcard.store.layout import Layout

ON_CPU: dict[str, Any] = {"device": "cpu", "dtype": "F32"}


def test_it_says_what_the_run_then_uses() -> None:
    said: dict[str, Any] = {"steps": 2, "seed": 3, "n": 2, "vae": "starter/vae_crisp", **ON_CPU}
    prompt = "a rocket <lora:pixel:0.5>"

    found, made = plan(prompt, **said), run(prompt, **said)

    assert (found.settings, found.settings.origin) == (made.settings, made.settings.origin)
    assert found.seeds == tuple(picture.seed for picture in made.pictures)
    assert (found.checkpoint, found.sha256, found.architecture) == (
        made.checkpoint, made.sha256, made.architecture,
    )  # fmt: skip
    assert found.loras == made.loras
    assert {part.part: part.file for part in found.parts} == {
        "text_encoder": "starter", "unet": "starter", "vae": "starter/vae_crisp",
    }  # fmt: skip
    assert (found.pictures, found.device, found.dtype) == (2, "cpu", "F32")


def test_the_weights_are_counted_as_they_are_loaded() -> None:
    for more in ({}, {"image": "x"}):  # a picture to begin from needs the encoder
        models = Models("cpu", "BF16")
        pipeline = models.get(Wanted("starter", encoder=bool(more))).pipeline
        held = sum(p.nbytes for m in pipeline.modules.values() for p in m.parameters())
        models.close()
        found = _generate_plan._used(
            *(Models("cpu", "BF16"), Models("cpu").look(Wanted("starter")).assembly, pipeline),
            run("a", steps=1, seed=1, **ON_CPU).settings,
            encoder=bool(more),
        )
        assert found[3].weights == held
        assert found[1] == "BF16"


def test_no_weight_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = write_safetensors(tmp_path / "sd.safetensors")

    def refused(*args: object) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr(Safetensors, "readinto", refused)

    found = plan("a rocket", path, **ON_CPU)

    assert (found.architecture, found.settings.steps) == ("sd1", 20)
    assert found.seeds == ()
    assert found.memory.needed > found.memory.weights > 4 * 1_000_000
    assert json.loads(json.dumps(found.to_dict()))["memory"]["needed"] == found.memory.needed


def test_parts_of_the_library_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    parts = flow_models.lone("flux", tmp_path)
    files = {n: save(tmp_path / f"{n}.safetensors", parts[n]) for n in ("clip_l", "t5xxl", "vae")}
    bare = save(tmp_path / "flux1-dev.safetensors", parts["transformer"])

    with pytest.raises(MismatchError, match="lacks"):
        plan("a cat", bare, **ON_CPU)
    add(Layout(tmp_path / "home"), list(files.values()))
    found = plan("a cat", bare, **ON_CPU)

    assert {part.part: part.file for part in found.parts} == {
        "text_encoder": "clip_l", "text_encoder_2": "t5xxl", "vae": "vae",
        "transformer": "flux1-dev.safetensors",
    }  # fmt: skip
    assert any("of the library" in note for note in found.notes)


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ({"checkpoint": "nowhere"}, NotFoundError),
        ({"width": 65}, UsageError),
        ({"colour": 1}, UsageError),
        ({"device": "toaster"}, UsageError),
        ({"loras": [("starter/vae_crisp", 1.0)]}, MismatchError),
    ],
)
def test_it_refuses_what_the_run_would_refuse(said: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        plan("a rocket", **said)


def test_what_helps_is_said_if_memory_is_short() -> None:
    work = Memory(3_050_000_000, 6_000_000_000, 450_000_000, 6_000_000_000)
    weights = Memory(7_050_000_000, 2_000_000_000, 450_000_000, 6_000_000_000)

    assert _short(work, "BF16") == [
        "It may not fit: about 9.5 GB are needed and 6.0 GB are free. What helps: --low-memory, a smaller --size."
    ]
    assert "--dtype BF16, which takes half, a smaller model" in _short(weights, "F32")[0]
    assert "--low-memory" not in _short(weights, "BF16")[0]
    assert _short(Memory(1, 1, 1, 10), "F32") == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak as Linux counts it")
def test_the_estimate_is_near_the_peak_of_a_real_run() -> None:
    size = {"width": 512, "height": 512}
    code = (
        "from memcard.jobs.generate import run; "
        f"run('a rocket', steps=2, seed=1, device='cpu', dtype='F32', **{size}); "
        "print(open('/proc/self/status').read())"
    )
    line = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    # not getrusage: it counts the peak of the process that started this one
    peak = int(line.stdout.split("VmHWM:")[1].split()[0]) * 1024

    needed = plan("a rocket", **size, **ON_CPU).memory.needed

    assert peak / 1.5 < needed < peak * 1.5
    assert needed > PROGRAM


def test_larger_pictures_and_clips_take_more() -> None:
    found = Models("cpu").look(Wanted("starter"))
    from memcard.jobs._generate_settings import outline

    pipeline = outline(found.assembly)
    one = Settings("euler", "normal", 20, 7.0, 64, 64, "", "epsilon")
    large = Settings("euler", "normal", 20, 7.0, 1024, 1024, "", "epsilon")
    clip = Settings("euler", "normal", 20, 7.0, 64, 64, "", "epsilon", frames=16)

    work = {
        name: work_of(pipeline, used, 4, tiled=False)
        for name, used in (("one", one), ("large", large), ("clip", clip))
    }

    assert work["one"] < work["clip"] < work["large"]
    assert work_of(pipeline, large, 2, tiled=False) == work["large"] // 2
    assert work_of(pipeline, large, 4, tiled=True) < work["large"]
