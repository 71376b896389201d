from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from fixtures.small import array_of, save
from fixtures.torch_archive import ONE, ONE_DATA, name, tensor, text, write_archive
from memcard.core.progress import Progress
from memcard.core.tensors import DTYPES, Spec
from memcard.errors import IntegrityError, MismatchError, NotFoundError, UnsafeError, UsageError
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
    source = save(tmp_path / "a.safetensors", {"w": np.ones(4, np.float32)}, metadata)

    result = convert(source, tmp_path / "b.safetensors", dtype="fp16")

    checkpoint = open_file(tmp_path / "b.safetensors")
    assert checkpoint.specs == {"w": Spec(DTYPES["F16"], (4,))}
    assert checkpoint.metadata == {"title": "x"}
    assert (result.cast, result.copied, result.overflow) == ({"F32 to F16": 1}, 0, {})


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
    with pytest.raises(UsageError, match=r"'decoder' is no part\. It can be: unet"):
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


BIG = {"a": np.array([1.0, 7e4, -1e30], np.float32), "b": np.array([1e6], np.float32)}


def test_overflow_is_counted_per_tensor_and_refused(tmp_path: Path) -> None:
    source = save(tmp_path / "a.safetensors", BIG)
    (old := tmp_path / "b.safetensors").write_bytes(b"old")

    with pytest.raises(
        MismatchError, match=r"3 values are too large for F16.*'a' \(2\), 'b' \(1\)"
    ):
        convert(source, old, dtype="fp16", overwrite=True)

    assert old.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors", "b.safetensors"]


def test_overflow_can_be_allowed_and_is_still_told(tmp_path: Path) -> None:
    source = save(tmp_path / "a.safetensors", BIG)

    result = convert(source, tmp_path / "b.safetensors", dtype="fp16", allow_overflow=True)

    assert result.overflow == {"a": 2, "b": 1}
    assert np.isinf(array_of(open_file(tmp_path / "b.safetensors"), "b")).all()
    assert "3 values were too large for F16: now infinite." in result.notes


def test_what_else_a_cast_costs_is_told(tmp_path: Path) -> None:
    values = np.array([np.nan, np.inf, 1e-30, 1e-6, 1.0], np.float32)
    source = save(tmp_path / "a.safetensors", {"w": values})

    notes = convert(source, tmp_path / "b.safetensors", dtype="fp16").notes

    assert notes == (
        "2 values were NaN or infinite before, in 'w'.",
        "1 values were too small for F16 and became zero.",
        "1 values lie where F16 keeps fewer bits (denormal).",
    )


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp64", "fp8_e4m3", "fp8_e5m2"])
def test_every_dtype_is_written_and_integers_stay(dtype: str, tmp_path: Path) -> None:
    source = save(tmp_path / "a.safetensors", {"w": np.ones(3, np.float16), "n": np.arange(3)})

    convert(source, tmp_path / "b.safetensors", dtype=dtype)

    checkpoint = open_file(tmp_path / "b.safetensors")
    assert array_of(checkpoint, "w").astype("f4").tolist() == [1, 1, 1]
    assert array_of(checkpoint, "n").tolist() == [0, 1, 2]


def test_a_dry_run_tells_the_plan_and_writes_nothing(tmp_path: Path, twin_path: Path) -> None:
    result = convert(
        twin_path, tmp_path / "b.safetensors", dtype="bf16", only="unet,vae", dry_run=True
    )

    assert not result.written
    assert list(tmp_path.iterdir()) == []
    assert result.components.keys() == {"unet", "vae"}
    assert result.cast == {"F16 to BF16": result.tensors}
    assert any(name.startswith("cond_stage_model.") for name in result.left_out)


def test_without_leaves_out_and_only_takes_several(tmp_path: Path, twin_path: Path) -> None:
    convert(twin_path, tmp_path / "a.safetensors", without=["text_encoder"])
    convert(twin_path, tmp_path / "b.safetensors", only=["unet", "vae"])

    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        ({"only": "unet", "without": "unet"}, "both wanted and not"),
        ({"only": "ema,no-ema"}, "EMA weights are both"),
        ({"without": "no-ema"}, "say ema where you want"),
        ({"dtype": "int8"}, "dtype is 'int8'; it can be"),
        ({"dialect": "kohya"}, "dialect is 'kohya'; it can be ldm or diffusers"),
    ],
)
def test_wishes_that_make_no_sense_are_refused(
    wishes: dict[str, str], message: str, tmp_path: Path, twin_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        convert(twin_path, tmp_path / "b.safetensors", **wishes)

    assert list(tmp_path.iterdir()) == []


def test_a_missing_part_is_named_with_those_that_are_there(tmp_path: Path, twin_path: Path) -> None:
    with pytest.raises(MismatchError, match=r"no transformer\. It holds: unet, text_encoder, vae"):
        convert(twin_path, tmp_path / "b.safetensors", only="transformer")


def test_the_markers_of_the_denoiser_go_with_it(tmp_path: Path, twin_path: Path) -> None:
    twin = open_file(twin_path)
    arrays = {name: array_of(twin, name) for name in twin.specs}
    source = save(tmp_path / "a.safetensors", {**arrays, "v_pred": np.zeros(0, np.float32)})

    convert(source, tmp_path / "unet.safetensors", only="unet")
    convert(source, tmp_path / "vae.safetensors", only="vae")

    assert "v_pred" in open_file(tmp_path / "unet.safetensors").specs
    assert "v_pred" not in open_file(tmp_path / "vae.safetensors").specs


def test_dialects_there_and_back_give_the_same_tensors(tmp_path: Path, twin_path: Path) -> None:
    there = convert(twin_path, tmp_path / "d.safetensors", dialect="diffusers")
    back = convert(tmp_path / "d.safetensors", tmp_path / "l.safetensors", dialect="ldm")

    one, two = open_file(twin_path), open_file(tmp_path / "l.safetensors")
    assert dict(one.specs) == dict(two.specs)
    assert [n for n in one.specs if one.read(n) != two.read(n)] == []
    assert there.renamed == back.renamed == len(one.specs)
    assert there.copied == len(one.specs)  # renaming copies in the kernel as well


def test_shards_and_back(tmp_path: Path, twin_path: Path) -> None:
    result = convert(twin_path, tmp_path / "s.safetensors", max_shard=4_000_000)

    assert result.path.name == "s.safetensors.index.json"
    convert(result.path, tmp_path / "one.safetensors")
    one, two = open_file(twin_path), open_file(tmp_path / "one.safetensors")
    assert [n for n in one.specs if one.read(n) != two.read(n)] == []


def test_a_folder_that_holds_the_source_is_never_replaced(tmp_path: Path, twin_path: Path) -> None:
    source = tmp_path / "model.safetensors"
    source.write_bytes(twin_path.read_bytes())

    with pytest.raises(UsageError, match=r"holds .*an input of this very job"):
        convert(source, f"{tmp_path}/", overwrite=True)

    assert source.exists()


def test_packed_weights_are_not_cast_without_their_scales(tmp_path: Path) -> None:
    import ml_dtypes

    arrays = {
        "w.weight": np.ones(4, ml_dtypes.float8_e4m3fn),
        "w.scale_weight": np.ones(1, np.float32),
    }
    source = save(tmp_path / "a.safetensors", arrays)

    with pytest.raises(MismatchError, match=r"scaled fp8.*their values need the scales"):
        convert(source, tmp_path / "b.safetensors", dtype="fp16")
    convert(source, tmp_path / "c.safetensors")

    assert open_file(tmp_path / "c.safetensors").specs.keys() == arrays.keys()


def write_gguf(path: Path) -> np.ndarray:
    import gguf

    values = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    writer = gguf.GGUFWriter(path, "flux")
    packed = gguf.quants.quantize(values, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("w.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("w.bias", values[0].copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return np.array(gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q8_0))


def test_gguf_needs_a_dtype_and_is_unpacked_with_one(tmp_path: Path) -> None:
    values = write_gguf(source := tmp_path / "a.gguf")

    with pytest.raises(MismatchError, match=r"1 tensors are packed blocks .* --dtype fp16"):
        convert(source, tmp_path / "b.safetensors")
    result = convert(source, tmp_path / "b.safetensors", dtype="fp16")

    checkpoint = open_file(tmp_path / "b.safetensors")
    assert np.array_equal(array_of(checkpoint, "w.weight"), values.astype(np.float16))
    assert {str(spec.dtype) for spec in checkpoint.specs.values()} == {"F16"}
    assert result.cast == {"Q8_0 to F16": 1, "F32 to F16": 1}


def test_salvage_takes_tensors_out_of_a_hostile_file(tmp_path: Path) -> None:
    program = (
        b"\x80\x02}(" + text("w") + tensor("0", [4], [1])
        + text("x") + name("posix", "system") + text("true") + b"\x85Ru."
    )  # fmt: skip
    source = write_archive(tmp_path / "a.ckpt", program, ONE_DATA)

    with pytest.raises(UnsafeError):
        convert(source, tmp_path / "b.safetensors")
    convert(source, tmp_path / "b.safetensors", salvage=True)

    assert open_file(tmp_path / "b.safetensors").read("w") == ONE_DATA["0"]


@pytest.mark.parametrize("spelling", ["ema.{}", "model_ema.{}", "ema_model.{}"])
def test_an_ema_beside_the_weights_is_found_under_each_name(spelling: str, tmp_path: Path) -> None:
    raw = {"unet.a": np.zeros(2, np.float32), "unet.b": np.zeros(2, np.float32)}
    average = {spelling.format(key): np.ones(2, np.float32) for key in raw}
    source = save(tmp_path / "a.safetensors", {**raw, **average})

    convert(source, tmp_path / "b.safetensors", only="ema")

    found = open_file(tmp_path / "b.safetensors")
    values = {key: array_of(found, key).tolist() for key in found.specs}
    assert values == {"unet.a": [1, 1], "unet.b": [1, 1]}


def test_the_ema_folder_of_diffusers_is_an_ema(tmp_path: Path) -> None:
    arrays = {"unet.a": np.zeros(2, np.float32), "unet_ema.a": np.ones(2, np.float32)}
    source = save(tmp_path / "a.safetensors", arrays)

    convert(source, tmp_path / "ema.safetensors", only="ema")
    convert(source, tmp_path / "raw.safetensors", without="ema")

    ema, raw = open_file(tmp_path / "ema.safetensors"), open_file(tmp_path / "raw.safetensors")
    assert array_of(ema, "unet.a").tolist() == [1, 1]
    assert list(raw.specs) == ["unet.a"]
    assert array_of(raw, "unet.a").tolist() == [0, 0]
