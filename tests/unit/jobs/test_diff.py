from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import memcard
from fixtures.sd15 import TINY, tensors
from fixtures.small import save, weights
from memcard.core.progress import Event, Progress
from memcard.errors import CorruptError, NotFoundError, UsageError
from memcard.jobs import diff as module
from memcard.jobs.diff import check_picture, diff, draw

Arrays = dict[str, np.ndarray[Any, Any]]
UNET = "model.diffusion_model."


@pytest.fixture(scope="module")
def twin_arrays() -> Arrays:
    return dict(tensors(TINY))


def pair(tmp_path: Path, a: Arrays, b: Arrays) -> tuple[Path, Path]:
    return save(tmp_path / "a.safetensors", a), save(tmp_path / "b.safetensors", b)


def test_a_file_and_its_copy_are_equal(tmp_path: Path) -> None:
    a, b = pair(tmp_path, weights(1), weights(1))

    found = diff(a, b)

    assert found.equal
    assert found.counts["equal"] == 4
    assert found.moved == ()


def test_a_link_to_the_same_file_is_not_even_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = save(tmp_path / "a.safetensors", weights(1))
    (tmp_path / "b.safetensors").hardlink_to(a)
    monkeypatch.setattr(module._Piece, "_read", lambda *_: pytest.fail("was read"))

    assert diff(a, tmp_path / "b.safetensors").equal


def test_how_far_each_tensor_moved(tmp_path: Path) -> None:
    old = weights(1, "F32")
    new = {**old, "b.weight": old["b.weight"] * np.float32(1.5)}
    a, b = pair(tmp_path, old, new)

    found = diff(a, b)

    assert not found.equal
    (change,) = found.moved
    assert (change.name, change.state) == ("b.weight", "moved")
    assert change.distance is not None
    assert change.distance.relative == pytest.approx(0.5, rel=1e-6)
    assert change.distance.cosine == pytest.approx(1.0)
    assert change.distance.share == pytest.approx(0, abs=0.01)


def test_the_figures_do_not_depend_on_threads_or_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = pair(tmp_path, weights(1, size=300_000), weights(2, size=300_000))
    monkeypatch.setattr(module, "PIECE", 1 << 17)

    one, many = diff(a, b, threads=1), diff(a, b, threads=5)

    assert one.to_dict() == many.to_dict()


def test_equal_parts_of_a_tensor_count_in_its_norm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PIECE", 1 << 16)
    old = {"w": np.ones(1 << 18, np.float32), "same": np.ones(3 << 18, np.float32)}
    new = {"w": old["w"].copy(), "same": old["same"]}
    new["w"][-1] = 3

    found = diff(*pair(tmp_path, old, new))

    (change,), (component,) = found.moved, found.components
    assert change.distance is not None
    assert change.distance.relative == pytest.approx(2 / (1 << 9))
    assert component.distance.relative == pytest.approx(2 / (1 << 10))


def test_names_shapes_and_dtypes(tmp_path: Path) -> None:
    old = {
        "gone": np.ones(2, np.float32),
        "shape": np.ones((2, 3), np.float32),
        "dtype": np.ones(4, np.float32),
        "both": np.ones(4, np.float32),
    }
    new = {
        "shape": np.ones((3, 2), np.float32),
        "dtype": np.ones(4, np.float16),
        "both": np.full(4, 1 / 3, np.float16),
        "extra": np.ones(2, np.float32),
    }

    found = diff(*pair(tmp_path, old, new))

    assert list(found.only_a) == ["gone"]
    assert list(found.only_b) == ["extra"]
    assert [change.name for change in found.shapes] == ["shape"]
    assert [change.name for change in found.dtypes] == ["dtype", "both"]
    assert {change.name: change.state for change in found.changes} == {
        "shape": "shape",
        "dtype": "same values",
        "both": "moved",
    }
    assert not found.equal


def test_equal_values_in_another_dtype_are_a_difference(tmp_path: Path) -> None:
    old = weights(1, "F16")
    new = {name: array.astype(np.float32) for name, array in old.items()}

    found = diff(*pair(tmp_path, old, new))

    assert (found.equal, found.counts["same values"], found.moved) == (False, 4, ())


def test_another_format_is_no_difference(tmp_path: Path, twin_path: Path) -> None:
    memcard.convert(twin_path, tmp_path / "twin.ckpt")

    assert diff(twin_path, tmp_path / "twin.ckpt").equal


def test_metadata_is_shown_and_is_no_difference(tmp_path: Path) -> None:
    a = save(tmp_path / "a.safetensors", weights(1), {"x": "1", "y": "1"})
    b = save(tmp_path / "b.safetensors", weights(1), {"y": "2", "z": "1"})

    found = diff(a, b)

    assert found.equal
    assert found.to_dict()["metadata"] == {"only_a": ["x"], "only_b": ["z"], "changed": ["y"]}


def test_keys_reads_headers_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair(tmp_path, weights(1), weights(2))
    monkeypatch.setattr(module._Piece, "_read", lambda *_: pytest.fail("was read"))

    found = diff(a, b, keys=True)

    assert found.equal
    assert found.counts["not read"] == 4
    assert found.blocks == ()
    assert "not read" in found.notes[-1]


def test_a_bare_unet_is_compared_with_the_one_in_a_checkpoint(
    tmp_path: Path, twin_arrays: Arrays
) -> None:
    bare = {n.removeprefix(UNET): v for n, v in twin_arrays.items() if n.startswith(UNET)}
    a, b = pair(tmp_path, twin_arrays, bare)

    found = diff(a, b)

    assert found.counts["equal"] == len(bare)
    assert {place.component for place, _ in found.only_a.values()} == {"vae", "text_encoder"}
    assert found.only_b == {}
    assert "Names differ in what stands before them" in found.notes[0]
    assert {change.place.component for change in found.changes} == {"unet"}


def test_dialects_are_matched_by_their_dictionary(
    tmp_path: Path, twin_path: Path, twin_arrays: Arrays
) -> None:
    from memcard.core.views import Rearranged
    from memcard.dialects import translate
    from memcard.formats import open_file

    ldm = open_file(twin_path)
    other = Rearranged(ldm, translate(ldm.specs, "diffusers").arrangements)
    arrays = {
        name: np.frombuffer(other.read(name), np.float16).reshape(spec.shape).copy()
        for name, spec in other.specs.items()
    }
    same = save(tmp_path / "same.safetensors", arrays)
    touched = next(name for name in arrays if name.endswith("attn2.to_k.weight"))
    arrays[touched] = arrays[touched] * np.float16(2)
    moved = save(tmp_path / "moved.safetensors", arrays)

    assert diff(twin_path, same).equal
    found = diff(twin_path, moved)

    assert [change.other for change in found.moved] == [touched]
    assert found.moved[0].name.startswith(UNET)
    assert found.moved[0].place.layer == "cross-attention"
    assert any("dialects" in note for note in found.notes)


def test_files_that_have_nothing_in_common_say_why(tmp_path: Path) -> None:
    found = diff(*pair(tmp_path, {"x": np.ones(2, np.float32)}, {"y": np.ones(2, np.float32)}))

    assert (list(found.only_a), list(found.only_b)) == (["x"], ["y"])
    assert "no dictionary helps" in found.notes[0]


def test_nan_and_infinity_are_counted(tmp_path: Path) -> None:
    old = {"w": np.array([1, np.nan, 2], np.float32)}
    new = {"w": np.array([1, np.nan, np.inf], np.float32)}

    found = diff(*pair(tmp_path, old, new))

    assert "2 pairs of values have NaN or infinity" in found.notes[0]
    assert found.to_dict()["changed"][0]["nonfinite"] == 2


def test_empty_and_scalar_tensors(tmp_path: Path) -> None:
    old = {"none": np.ones((0, 4), np.float32), "one": np.float32(2).reshape(())}
    new = {"none": np.ones((0, 4), np.float32), "one": np.float32(3).reshape(())}

    found = diff(*pair(tmp_path, old, new))

    assert {change.name: change.state for change in found.changes} == {
        "none": "equal",
        "one": "moved",
    }


def test_all_facts_are_json_also_from_zero(tmp_path: Path) -> None:
    old, new = {"w": np.zeros(3, np.float32)}, {"w": np.ones(3, np.float32)}

    facts = diff(*pair(tmp_path, old, new)).to_dict()

    text = json.dumps(facts, allow_nan=False)
    assert json.loads(text)["changed"][0]["relative_norm"] is None
    assert set(facts["components"][0]["blocks"][0]) == {
        *("block", "tensors", "moved", "relative_norm", "cosine", "equal_share", "max_abs"),
        *("nonfinite", "layers"),
    }


def test_progress_ends_at_the_whole(tmp_path: Path) -> None:
    seen: list[Event] = []

    diff(*pair(tmp_path, weights(1), weights(2)), progress=seen.append)

    assert isinstance(seen[-1], Progress)
    assert seen[-1].done == seen[-1].total > 0


def test_sharded_and_strided_inputs(tmp_path: Path) -> None:
    table = torch.arange(24.0).reshape(4, 6)
    torch.save({"w": table.t(), "v": table[:, 1]}, tmp_path / "a.ckpt")
    torch.save({"w": table.t().contiguous(), "v": table[:, 1].clone()}, tmp_path / "b.ckpt")

    assert diff(tmp_path / "a.ckpt", tmp_path / "b.ckpt").equal


def test_errors_of_either_side_reach_the_caller(tmp_path: Path) -> None:
    a = save(tmp_path / "a.safetensors", weights(1))
    (tmp_path / "cut.safetensors").write_bytes(a.read_bytes()[:-5])

    with pytest.raises(CorruptError, match=r"cut\.safetensors"):
        diff(a, tmp_path / "cut.safetensors")
    with pytest.raises(NotFoundError, match=r"none\.safetensors"):
        diff(tmp_path / "none.safetensors", a)


def test_a_finetune_of_the_starter_moved_in_some_blocks_only() -> None:
    found = memcard.diff("starter", "starter/neon")

    moved = {block.block for block in found.blocks if block.moved}
    still = {block.block for block in found.blocks if not block.moved}
    assert moved
    assert still
    assert {group.component for group in found.components} == {"unet", "vae", "text_encoder"}


def test_the_heat_map_is_a_picture_of_the_differences(tmp_path: Path) -> None:
    from PIL import Image

    found = memcard.diff("starter", "starter/neon")

    draw(found, tmp_path / "map.png")

    with Image.open(tmp_path / "map.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) > 600
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 24)}
    assert (127, 0, 0) in colors  # what moved furthest has the last color of the scale


def test_a_heat_map_of_equal_files_is_drawn_too(tmp_path: Path) -> None:
    a = save(tmp_path / "a.safetensors", weights(1))

    draw(diff(a, a), tmp_path / "map.png")

    assert (tmp_path / "map.png").stat().st_size > 0


def test_pictures_that_cannot_be_are_refused_early(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"end the name in \.png"):
        check_picture(tmp_path / "map.jpg")
    with pytest.raises(NotFoundError, match="no such folder"):
        check_picture(tmp_path / "none" / "map.png")
    with pytest.raises(UsageError, match="--keys"):
        check_picture(tmp_path / "map.png", keys=True)
    monkeypatch.setattr("memcard.core.extras.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'memcard\[pictures\]'"):
        check_picture(tmp_path / "map.png")


def test_nothing_is_left_open(tmp_path: Path) -> None:
    a, b = pair(tmp_path, weights(1), weights(2))
    before = len(list(Path("/proc/self/fd").iterdir()))

    diff(a, b)

    assert len(list(Path("/proc/self/fd").iterdir())) == before
    shutil.rmtree(tmp_path)


def test_shards_and_a_folder_are_compared_as_the_checkpoints_they_are(
    tmp_path: Path, twin_path: Path
) -> None:
    memcard.convert(twin_path, tmp_path / "cut.safetensors", max_shard=4_000_000)
    index = tmp_path / "cut.safetensors.index.json"

    assert index.exists()
    assert diff(twin_path, index).equal
    assert diff(index, twin_path).counts["equal"] == len(memcard.open(twin_path).specs)


def test_a_quantised_file_is_compared_by_the_values_it_stands_for(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    values = np.random.default_rng(0).standard_normal((4, 512)).astype(np.float32)
    writer = gguf.GGUFWriter(tmp_path / "b.gguf", "flux")
    kind = gguf.GGMLQuantizationType.Q8_0
    writer.add_tensor("w", gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.add_tensor("same", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    a = save(tmp_path / "a.safetensors", {"w": values, "same": values})

    found = diff(a, tmp_path / "b.gguf")

    states = {change.name: change.state for change in found.changes}
    assert states == {"w": "moved", "same": "equal"}
    assert found.moved[0].distance is not None
    assert 0.001 < (found.moved[0].distance.relative or 0) < 0.02
