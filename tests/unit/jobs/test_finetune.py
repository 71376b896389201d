"""`memcard finetune` on real classes with random weights: SD 1 and SD 2 and SDXL twins, and the starter."""

import copy
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fixtures.diffusers_models import family, save
from fixtures.small import array_of
from memcard.core.checkpoint import Checkpoint
from memcard.errors import MismatchError, UnsupportedError, UsageError
from memcard.formats import open_file
from memcard.jobs.add import add
from memcard.jobs.convert import convert
from memcard.jobs.finetune import Tuned, finetune
from memcard.jobs.license import license_of
from memcard.jobs.lora import open_with_loras
from memcard.jobs.lora_convert import lora_convert
from memcard.jobs.lora_info import lora_info
from memcard.store.layout import Layout

SLOW = ("sd2", "sdxl")
# What does not depend on the family is asked of one.
of_one_family = pytest.mark.parametrize("base", ["sd1"], indirect=True)
TINY: dict[str, Any] = {
    "steps": 2, "batch": 2, "width": 64, "height": 64, "prompts": ("a",), "sheet_every": 0,
    "device": "cpu", "checkpointing": False, "precision": "fp32", "lr": 1e-3, "save_every": 1, "sheets": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: Any) -> Path:
    root: Path = tmp_path_factory.mktemp("data") / "pictures"
    root.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a red thing", "a blue thing", "a green thing"):
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(root / f"{name}.png")
    return root


@pytest.fixture(
    scope="module", params=["sd1", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)]
)
def base(request: Any, tmp_path_factory: Any) -> Path:
    """A twin as a single file under its original names, in 16 bits."""
    path: Path = tmp_path_factory.mktemp(request.param)
    save(path / "d.safetensors", {k: v / 4 for k, v in family(request.param)[1].items()})
    convert(
        path / "d.safetensors", path / f"{request.param}.safetensors", dialect="ldm", dtype="fp16"
    )
    return path / f"{request.param}.safetensors"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def tuned(base: Path, data: Path, out: Path, **more: Any) -> Tuned:
    made = finetune(base, data, out, **{**TINY, **more})
    assert isinstance(made, Tuned)
    return made


def arrays(path: str | Path) -> dict[str, np.ndarray[Any, Any]]:
    checkpoint = open_file(Path(path))
    found = {name: array_of(checkpoint, name).copy() for name in checkpoint.specs}
    checkpoint.close()
    return found


def values(checkpoint: Checkpoint) -> Iterator[tuple[str, bytes]]:
    for name in checkpoint.specs:
        yield name, bytes(checkpoint.read(name))


def test_a_whole_fine_tune_has_the_names_and_dtypes_of_its_base(
    base: Path, pictures: Path, tmp_path: Path
) -> None:
    made = tuned(base, pictures, tmp_path / "mine")
    before, after = arrays(base), arrays(made.files[0])

    assert made.files == (tmp_path / "mine.safetensors",)
    assert {k: (v.dtype, v.shape) for k, v in after.items()} == {
        k: (v.dtype, v.shape) for k, v in before.items()
    }
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert changed
    assert all(name.startswith("model.diffusion_model.") for name in changed)


def test_a_lora_fits_its_base_and_can_be_baked(base: Path, pictures: Path, tmp_path: Path) -> None:
    made = tuned(base, pictures, tmp_path / "style", rank=2, text_encoder=True, lora_format="both")
    info = lora_info(made.files[0], base=base)
    baked = open_with_loras(base, [(made.files[0], 1.0)])
    plain = open_file(base)
    changed = [n for n, part in values(baked) if part != bytes(plain.read(n))]

    assert info.dialect == "kohya"
    assert not info.unmatched
    assert any("diffusion_model" in name for name in changed)
    assert any("diffusion_model" not in name for name in changed)
    assert made.files[1].name == "style-peft"
    assert any((made.files[1]).rglob("adapter_config.json"))


@pytest.mark.parametrize(
    "dora", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["lora", "dora"]
)
def test_the_lora_changes_the_unet_of_diffusers_and_peft_as_it_changes_ours(
    base: Path, pictures: Path, tmp_path: Path, dora: bool
) -> None:
    import torch
    from diffusers import DiffusionPipeline
    from peft import PeftModel

    made = tuned(
        base,
        pictures,
        tmp_path / "style",
        rank=4,
        alpha=2.0,
        lr=1e-2,
        lora_format="both",
        dora=dora,
    )
    convert(base, f"{tmp_path / 'folder'}/", dtype="fp32")
    pipeline = DiffusionPipeline.from_pretrained(tmp_path / "folder", local_files_only=True)
    plain = copy.deepcopy(pipeline.unet)
    named = "style.safetensors"
    if dora:  # diffusers leaves out the lengths in kohya's names, and the result says so
        assert "memcard lora convert" in made.notes[0]
        named = "diffusers.safetensors"
        lora_convert(tmp_path / "style.safetensors", tmp_path / named, to="diffusers", base=base)
    pipeline.load_lora_weights(str(tmp_path), weight_name=named)
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    theirs = pipeline.unet.state_dict()
    peft = PeftModel.from_pretrained(plain, tmp_path / "style-peft").merge_and_unload().state_dict()
    baked = open_with_loras(tmp_path / "folder", [(tmp_path / "style.safetensors", 1.0)])
    names = [name.removeprefix("unet.") for name in baked.specs if name.startswith("unet.")]
    ours = {name: torch.from_numpy(array_of(baked, f"unet.{name}").copy()) for name in names}

    assert [n for n in names if not torch.allclose(theirs[n], ours[n], atol=2e-5)] == []
    assert [n for n in names if not torch.allclose(peft[n], ours[n], atol=2e-5)] == []


@of_one_family
@pytest.mark.slow
def test_a_run_that_was_interrupted_ends_in_the_same_weights_painted_or_not(
    base: Path, pictures: Path, tmp_path: Path
) -> None:
    whole = tuned(base, pictures, tmp_path / "whole", rank=2, steps=4)
    told: dict[str, Any] = {"rank": 2, "steps": 4, "sheets": True, "sheet_every": 1}

    def stop(moment: Any) -> None:
        if moment.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tuned(base, pictures, tmp_path / "twice", watch=stop, **told)
    assert not (tmp_path / "twice.safetensors").exists()
    seen: list[int] = []
    again = tuned(base, pictures, tmp_path / "twice", watch=lambda m: seen.append(m.step), **told)

    assert seen == [3, 4]
    one, two = arrays(whole.files[0]), arrays(again.files[0])
    assert all((one[name] == two[name]).all() for name in one)
    assert again.loss == whole.loss


@of_one_family
@pytest.mark.slow
def test_the_same_command_after_the_end_writes_the_result_again(
    base: Path, pictures: Path, tmp_path: Path
) -> None:
    first = tuned(base, pictures, tmp_path / "m", rank=2)
    before = arrays(first.files[0])
    second = tuned(base, pictures, tmp_path / "m", rank=2, watch=lambda m: pytest.fail("trained"))

    assert all((before[n] == v).all() for n, v in arrays(second.files[0]).items())


@of_one_family
def test_a_second_run_of_the_name_with_other_arguments_is_refused_with_all_of_them(
    base: Path, pictures: Path, tmp_path: Path
) -> None:
    tuned(base, pictures, tmp_path / "m", rank=2)

    with pytest.raises(MismatchError) as caught:
        tuned(base, pictures, tmp_path / "m", rank=4, lr=1e-4)

    said = str(caught.value)
    assert "rank was 2 and is 4" in said
    assert "lr was 0.001 and is 0.0001" in said
    assert "--restart" in said
    restarted = tuned(base, pictures, tmp_path / "m", rank=4, lr=1e-4, restart=True, overwrite=True)
    assert restarted.plan.start == 0


@of_one_family
@pytest.mark.slow
def test_other_pictures_are_told_from_the_same_under_other_names(
    base: Path, pictures: Path, tmp_path: Path
) -> None:
    tuned(base, pictures, tmp_path / "m", rank=2)
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (64, 64)).save(other / "black.png")

    with pytest.raises(MismatchError, match="the data was 'pictures' and is 'other'"):
        tuned(base, other, tmp_path / "m", rank=2)


@of_one_family
def test_a_dry_run_writes_nothing_and_tells_everything(
    base: Path, pictures: Path, tmp_path: Path, home: Path
) -> None:
    plan = finetune(
        base, pictures, tmp_path / "m", dry_run=True, rank=2, epochs=3, width=64, height=64
    )
    facts = plan.to_dict()

    assert json.loads(json.dumps(facts)) == facts
    assert facts["pictures"] == 3
    assert facts["settings"]["steps"] == 9
    assert facts["buckets"] == {"64x64": 3}
    assert facts["learning"] > 0
    assert not home.exists()
    assert not (tmp_path / "m.safetensors").exists()


@pytest.mark.slow
def test_the_count_of_the_plan_is_the_count_of_the_training(
    base: Path, pictures: Path, tmp_path: Path
) -> None:
    made = tuned(base, pictures, tmp_path / "m", rank=3, targets="all", text_encoder=True)
    stored = arrays(made.files[0])

    assert sum(v.size for n, v in stored.items() if not n.endswith(".alpha")) == made.plan.learning


@of_one_family
def test_the_result_says_where_it_comes_from_and_is_in_the_library(
    base: Path, pictures: Path, tmp_path: Path, home: Path
) -> None:
    made = tuned(base, pictures, tmp_path / "m", rank=2, trigger="sks", data_license="CC-BY-4.0")
    opened = open_file(made.files[0])
    card = json.loads(opened.metadata["memcard.card"])
    run = json.loads(opened.metadata["memcard.finetune"])
    report = license_of(made.files[0])

    assert made.name == "m"
    assert card["kind"] == "lora"
    assert card["trigger_words"] == ["sks"]
    assert card["made_from"][0]["name"] == base.name
    assert run["data"]["fingerprint"] == made.plan.fingerprint
    assert run["settings"]["rank"] == 2
    assert {p.name: p.license.id for p in report.verdict.parents}["pictures"] == "cc-by-4.0"
    assert Layout(home).refs.is_dir()
    assert str(tmp_path) not in json.dumps(dict(opened.metadata))


@of_one_family
@pytest.mark.slow
def test_sheet_and_report_show_base_and_end(base: Path, pictures: Path, tmp_path: Path) -> None:
    made = tuned(base, pictures, tmp_path / "m", rank=2, steps=4, sheet_every=2, sheets=True)
    page = made.report.read_text()
    strips = sorted(p.name for p in (made.report.parent / "sheets").iterdir())

    assert strips == ["step-000000000.png", "step-000000002.png", "step-000000004.png"]
    assert "<svg" in page
    assert "data:image/png;base64" in page
    assert "http" not in page.replace("http-equiv", "")
    assert made.sheet is not None
    with Image.open(made.sheet) as sheet:
        assert sheet.height > 3 * 128


@pytest.mark.slow
def test_sixteen_bits_learn_and_paint(base: Path, pictures: Path, tmp_path: Path) -> None:
    made = tuned(base, pictures, tmp_path / "m", rank=2, precision="bf16", sheets=True, dora=True)

    assert made.loss > 0
    assert made.sheet is not None
    assert not lora_info(made.files[0], base=base).unmatched


@of_one_family
@pytest.mark.slow
def test_an_average_is_what_is_kept(base: Path, pictures: Path, tmp_path: Path) -> None:
    raw = tuned(base, pictures, tmp_path / "raw", rank=2, steps=4)
    mean = tuned(base, pictures, tmp_path / "mean", rank=2, steps=4, ema=0.5)
    one, two = arrays(raw.files[0]), arrays(mean.files[0])

    assert any((one[name] != two[name]).any() for name in one)
    assert mean.loss == raw.loss


@of_one_family
def test_a_file_that_is_not_of_this_run_is_not_replaced(
    base: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "m.safetensors"
    out.write_bytes(b"mine")

    with pytest.raises(UsageError, match="is there already"):
        tuned(base, pictures, out, rank=2)
    with pytest.raises(UsageError, match="is the base itself"):
        tuned(base, pictures, base, rank=2)
    assert out.read_bytes() == b"mine"


@of_one_family
@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"lora_format": "a1111"}, "kohya, peft, both"),
        ({"nonsense": 1}, "no setting nonsense"),
        ({"epochs": 1}, "not both"),
        ({"width": 72}, "multiple of (64|32)"),
        ({"device": "abacus"}, "abacus"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_done(
    base: Path, pictures: Path, tmp_path: Path, home: Path, more: dict[str, Any], says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        tuned(base, pictures, tmp_path / "m", **more)
    assert not home.exists()


def test_a_file_that_cannot_learn_is_refused_by_what_it_is(pictures: Path, tmp_path: Path) -> None:
    for name in ("lora_pixel", "vae_crisp"):
        with pytest.raises(UnsupportedError, match=f"starter/{name}: is "):
            finetune(f"starter/{name}", pictures, tmp_path / "m", **TINY)


def test_the_starter_learns_with_its_own_settings(pictures: Path, tmp_path: Path) -> None:
    plan = finetune("starter", pictures, tmp_path / "m", dry_run=True, rank=8)
    made = tuned(Path("starter"), pictures, tmp_path / "m", rank=2, steps=1, sheets=True)

    assert plan.to_dict()["settings"]["targets"] == "all"
    assert (made.plan.family, made.plan.prediction) == ("starter", "v_prediction")
    assert lora_info(made.files[0], base="starter").unmatched == ()


@of_one_family
def test_a_name_may_have_dots_and_other_formats_are_refused(
    base: Path, pictures: Path, tmp_path: Path
) -> None:
    plan = finetune(base, pictures, tmp_path / "fox-v1.5", **TINY, dry_run=True)

    assert plan.to_dict()["out"] == str(tmp_path / "fox-v1.5.safetensors")
    assert plan.to_dict()["run"].endswith("runs/fox-v1.5")
    with pytest.raises(UsageError, match=r"is a \.safetensors file"):
        finetune(base, pictures, tmp_path / "fox.ckpt", **TINY, dry_run=True)


@of_one_family
@pytest.mark.slow
def test_a_name_that_means_another_checkpoint_is_refused_before_the_training(
    base: Path, pictures: Path, tmp_path: Path, home: Path
) -> None:
    other = Path(shutil.copy(base, tmp_path / "other.safetensors"))
    add(Layout(home), [other], name="m")

    with pytest.raises(UsageError, match="m: is the name of another checkpoint"):
        tuned(base, pictures, tmp_path / "m", rank=2)
    made = tuned(base, pictures, tmp_path / "m", rank=2, library=False)
    assert made.name is None
    forced = tuned(base, pictures, tmp_path / "m", rank=2, overwrite=True)
    assert forced.name == "m"


@of_one_family
@pytest.mark.slow
def test_the_last_strip_is_the_preview_unless_there_is_one_already(
    base: Path, pictures: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.preview.png"
    Image.new("RGB", (4, 4)).save(own)
    before = own.read_bytes()

    first = tuned(base, pictures, tmp_path / "m", rank=2, sheets=True)
    tuned(base, pictures, tmp_path / "own", rank=2, sheets=True)

    assert first.sheet is not None
    strip = first.sheet.parent / "sheets" / "step-000000002.png"
    assert (tmp_path / "m.preview.png").read_bytes() == strip.read_bytes()
    assert own.read_bytes() == before


@pytest.mark.slow
def test_two_processes_train_together_and_go_on_together(
    pictures: Path, tmp_path: Path, home: Path
) -> None:
    def run(steps: int) -> subprocess.CompletedProcess[str]:
        job = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
        told = ["finetune", "starter", str(pictures), "--out", str(tmp_path / f"m{steps}")]
        more = [
            "--lora",
            "2",
            "--steps",
            str(steps),
            "--batch",
            "1",
            "--no-sheets",
            "--device",
            "cpu",
        ]
        return subprocess.run(
            [*job, "-m", "memcard", *told, *more], capture_output=True, text=True, check=False,
            env={**os.environ, "MEMCARD_HOME": str(home), "OMP_NUM_THREADS": "1"}, timeout=300,
        )  # fmt: skip

    done = run(2)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == str(tmp_path / "m2.safetensors")
    assert lora_info(tmp_path / "m2.safetensors", base="starter").unmatched == ()
    again = run(2)
    assert again.returncode == 0, again.stderr
    assert "after step 2" in again.stderr
    with pytest.raises(MismatchError, match="there were 2 processes and are 1"):
        finetune(
            *("starter", pictures, tmp_path / "m2"), rank=2, steps=2, batch=1, sheets=False,
            device="cpu",
        )  # fmt: skip


@pytest.mark.slow
def test_a_run_that_is_killed_twice_ends_in_the_same_weights(
    pictures: Path, tmp_path: Path, home: Path
) -> None:
    def start(name: str) -> subprocess.Popen[str]:
        told = [
            "finetune",
            "starter",
            str(pictures),
            "--out",
            str(tmp_path / name),
            "--device",
            "cpu",
        ]
        more = ["--lora", "2", "--steps", "12", "--batch", "2", "--no-sheets", "--save-every", "1"]
        return subprocess.Popen(
            [sys.executable, "-m", "memcard", *told, *more], stderr=subprocess.PIPE, text=True,
            stdout=subprocess.DEVNULL, env={**os.environ, "MEMCARD_HOME": str(home)},
        )  # fmt: skip

    def kill_after(name: str, saves: int) -> None:
        process = start(name)
        while (
            len(list((home / "runs" / name).glob("log.jsonl"))) == 0 or _saved(home, name) < saves
        ):
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.01)
        process.kill()
        process.communicate()

    whole = start("whole")
    assert whole.wait(200) == 0, whole.communicate()[1]
    whole.communicate()
    kill_after("killed", 3)
    kill_after("killed", 7)
    last = start("killed")
    said = last.communicate(timeout=200)[1]

    assert last.returncode == 0, said
    assert "resuming" in said
    one, two = (arrays(tmp_path / f"{name}.safetensors") for name in ("whole", "killed"))
    assert all((one[name] == two[name]).all() for name in one)


def _saved(home: Path, name: str) -> int:
    return (home / "runs" / name / "log.jsonl").read_text().count('"saved"')
