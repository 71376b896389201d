from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import pytest

from fixtures.torch_archive import ONE, ONE_DATA, name, tensor, text, write_archive
from memcard.core.progress import Progress
from memcard.core.tensors import DTYPES, Spec
from memcard.errors import IntegrityError, MismatchError, NotFoundError, UsageError
from memcard.formats import format_for_suffix, open_file
from memcard.jobs.convert import convert
from memcard.jobs.resolve import locate, names

TIED = b"\x80\x02}(" + text("a") + tensor("0", [4], [1]) + text("b") + tensor("0", [4], [1]) + b"u."


def write(path: Path, specs: dict[str, Spec], metadata: dict[str, str]) -> Path:
    with format_for_suffix(path).create(path) as sink:
        sink.begin(specs, metadata)
        for key, spec in specs.items():
            sink.write(key, memoryview(os.urandom(spec.nbytes)))
    return path


def test_there_and_back_is_the_same_file(tmp_path: Path) -> None:
    specs = {"b": Spec(DTYPES["F16"], (3,)), "a": Spec(DTYPES["F32"], (2, 2))}
    first = write(tmp_path / "a.safetensors", specs, {"z": "1", "a": "2"})

    convert(first, tmp_path / "b.ckpt")
    result = convert(tmp_path / "b.ckpt", tmp_path / "c.safetensors")

    assert (tmp_path / "c.safetensors").read_bytes() == first.read_bytes()
    assert (result.tensors, result.copied, result.notes) == (2, 2, ())
    assert json.loads(json.dumps(result.to_dict()))["path"] == str(tmp_path / "c.safetensors")


def test_tied_weights_keep_every_name(tmp_path: Path) -> None:
    source = write_archive(tmp_path / "a.ckpt", TIED, ONE_DATA)

    result = convert(source, tmp_path / "b.safetensors")

    checkpoint = open_file(tmp_path / "b.safetensors")
    assert bytes(checkpoint.read("a")) == bytes(checkpoint.read("b")) == ONE_DATA["0"]
    assert any("written out in full" in note for note in result.notes)


def test_training_state_is_left_out_and_said(tmp_path: Path) -> None:
    program = (
        b"\x80\x02}("
        + text("state_dict") + b"}" + text("w") + tensor("0", [4], [1]) + b"s"
        + text("optimizer_states") + b"(" + tensor("1", [2], [1], numel=2) + b"l"
        + text("hyper_parameters") + name("argparse", "Namespace") + b")\x81"
        + text("ema") + b"}" + text("w") + tensor("2", [1], [1], numel=1) + b"s"
        + text("epoch") + b"K\x03u."
    )  # fmt: skip
    storages = {**ONE_DATA, "1": bytes(8), "2": struct.pack("<f", 9)}
    source = write_archive(tmp_path / "a.ckpt", program, storages)

    result = convert(source, tmp_path / "b.safetensors")

    checkpoint = open_file(tmp_path / "b.safetensors")
    assert list(checkpoint.specs) == ["w", "ema.w"]
    assert checkpoint.metadata == {"epoch": "3"}
    assert result.left_out == ("optimizer_states[0]",)
    assert any("1 tensors of training state (8 bytes)" in note for note in result.notes)
    assert any(note.endswith("not tensors: hyper_parameters.") for note in result.notes)


def test_a_bare_pt_says_that_metadata_is_lost(tmp_path: Path) -> None:
    source = write(tmp_path / "a.safetensors", {"w": Spec(DTYPES["U8"], (1,))}, {"title": "x"})

    result = convert(source, tmp_path / "b.pt")

    assert any("no place for metadata" in note for note in result.notes)


def test_existing_files_and_the_source_are_kept(tmp_path: Path) -> None:
    source = write_archive(tmp_path / "a.ckpt", ONE, ONE_DATA)
    before = source.read_bytes()
    other = tmp_path / "b.safetensors"
    other.write_bytes(b"mine")
    (tmp_path / "link.ckpt").symlink_to(source)

    with pytest.raises(UsageError, match="is there already"):
        convert(source, other)
    with pytest.raises(UsageError, match="is an input of this very job"):
        convert(source, tmp_path / "link.ckpt", overwrite=True)
    with pytest.raises(NotFoundError, match="no such folder"):
        convert(source, tmp_path / "none" / "b.safetensors")

    assert (source.read_bytes(), other.read_bytes()) == (before, b"mine")
    convert(source, other, overwrite=True)
    assert open_file(other).read("w") == ONE_DATA["0"]


def test_dtype_casts_and_drops_what_is_no_longer_true(tmp_path: Path) -> None:
    metadata = {"title": "x", "modelspec.hash_sha256": "0xab", "memcard.recipe": "{}"}
    source = write(tmp_path / "a.safetensors", {"w": Spec(DTYPES["F32"], (4,))}, metadata)

    convert(source, tmp_path / "b.safetensors", dtype="fp16")

    checkpoint = open_file(tmp_path / "b.safetensors")
    assert checkpoint.specs == {"w": Spec(DTYPES["F16"], (4,))}
    assert checkpoint.metadata == {"title": "x"}


def test_ema_takes_the_place_of_the_raw_weights(tmp_path: Path) -> None:
    one = Spec(DTYPES["U8"], (2,))
    specs = {"model.diffusion_model.a": one, "model_ema.diffusion_modela": one}
    source = write(tmp_path / "a.safetensors", specs, {})
    before = open_file(source)

    convert(source, tmp_path / "ema.safetensors", only="ema")
    convert(source, tmp_path / "raw.safetensors", only="no-ema")

    ema, raw = open_file(tmp_path / "ema.safetensors"), open_file(tmp_path / "raw.safetensors")
    assert list(ema.specs) == list(raw.specs) == ["model.diffusion_model.a"]
    assert ema.read("model.diffusion_model.a") == before.read("model_ema.diffusion_modela")
    assert raw.read("model.diffusion_model.a") == before.read("model.diffusion_model.a")


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_only_keeps_one_component(part: str, tmp_path: Path) -> None:
    from fixtures.sd15 import TINY, shapes

    specs = {key: Spec(DTYPES["F16"], shape) for key, shape in shapes(TINY).items()}
    source = write(tmp_path / "a.safetensors", specs, {})
    starts = {"unet": "model.", "vae": "first_stage_model.", "text_encoder": "cond_stage_model."}

    result = convert(source, tmp_path / "b.safetensors", only=part)

    kept = list(open_file(tmp_path / "b.safetensors").specs)
    assert kept == [key for key in specs if key.startswith(starts[part])]
    assert len(kept) + len(result.left_out) == len(specs)


def test_only_needs_a_known_family(tmp_path: Path) -> None:
    source = write_archive(tmp_path / "a.ckpt", ONE, ONE_DATA)

    with pytest.raises(MismatchError, match="of no family known here"):
        convert(source, tmp_path / "b.safetensors", only="unet")
    with pytest.raises(UsageError, match="'decoder'; it can be unet"):
        convert(source, tmp_path / "b.safetensors", only="decoder")

    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ckpt"]


def test_a_source_that_changes_meanwhile_gives_no_file(tmp_path: Path) -> None:
    source = write_archive(tmp_path / "a.ckpt", ONE, ONE_DATA)

    def meddle(event: object) -> None:
        if isinstance(event, Progress):
            os.utime(source, (1, 1))

    with pytest.raises(IntegrityError, match="changed while it was read"):
        convert(source, tmp_path / "b.safetensors", progress=meddle)

    assert list(tmp_path.iterdir()) == [source]


def test_the_base_of_a_delta_is_an_input_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    style = next(n for n in names() if "/finetune_" in n)
    base, delta = tmp_path / "base.safetensors", tmp_path / "style.safetensors"
    base.write_bytes(before := locate("starter").read_bytes())
    delta.write_bytes(locate(style).read_bytes())
    # Without the starter's own base the one beside the delta is found.
    monkeypatch.setattr("memcard.jobs.resolve.starter_folder", lambda: tmp_path)

    with pytest.raises(UsageError, match="is an input of this very job"):
        convert(delta, base, overwrite=True)

    assert base.read_bytes() == before
