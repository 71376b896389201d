from __future__ import annotations

import struct
import time
import tracemalloc
from pathlib import Path
from typing import Any

import gguf as reference
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

from fixtures.gguf_bytes import ARRAY, F32, FOUR, ONE_GGUF, Q8_0, STRING, U32, Info, Writer, gguf
from memcard.core.tensors import DTYPES, QUANTIZED, Spec
from memcard.errors import CorruptError, FormatError, NotFoundError, UnsupportedError
from memcard.formats import open_file
from memcard.formats._gguf_header import GGML_TYPES
from memcard.formats.gguf import PLUGIN

W = Writer()
ONE = Info(b"w", [4], F32, FOUR)


def save(path: Path, raw: bytes) -> Path:
    path.write_bytes(raw)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "x.gguf"


def test_blocks_are_as_large_as_in_the_reference() -> None:
    ours = {kind: (dtype.block, dtype.block_bytes) for kind, dtype in GGML_TYPES.items()}

    assert ours == {int(kind): size for kind, size in GGML_QUANT_SIZES.items()}
    assert {GGMLQuantizationType(n).name for n in GGML_TYPES} == {
        d.name for d in GGML_TYPES.values()
    }
    assert all(d.quantized and not d.is_float for d in QUANTIZED.values())


def write_by_the_reference(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """One tensor of every type that gguf can make, and metadata of every kind."""
    rng = np.random.default_rng(0)
    writer = reference.GGUFWriter(path, "flux")
    writer.add_name("Ünïcode ✓")
    writer.add_bool("flag", True)
    writer.add_float32("third", 0.1)
    writer.add_float64("tenth", 0.1)
    writer.add_int64("minus", -(1 << 40))
    writer.add_array("few", ["a", "b"])
    writer.add_array("many", list(range(1000)))
    writer.add_array("words", [str(i) for i in range(100)])
    expected = {}
    for kind in GGMLQuantizationType:
        values = rng.standard_normal((3, 2, 256)).astype("f4")
        try:
            expected[kind.name] = quants.quantize(values, kind)
        except NotImplementedError:
            continue
        writer.add_tensor(kind.name, expected[kind.name], raw_dtype=kind)
    for name, array in {"ints": np.arange(7, dtype="i4"), "f64": np.ones((1, 3), "f8")}.items():
        writer.add_tensor(name, array)
        expected[name] = array
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected


def test_what_the_reference_writes_is_read_bit_by_bit(path: Path) -> None:
    expected = write_by_the_reference(path)

    checkpoint = open_file(path)

    assert checkpoint.format == "gguf"
    assert list(checkpoint.specs) == list(expected)
    assert len(expected) >= 13
    for name, array in expected.items():
        shape = (3, 2, 256) if name in QUANTIZED or array.ndim == 3 else array.shape
        assert checkpoint.specs[name].shape == shape
        assert bytes(checkpoint.read(name)) == array.tobytes()
    assert "8 tensors are quantised (1 Q4_0, " in checkpoint.notes[0]


def test_pairs_are_text_and_long_arrays_are_summed_up(path: Path) -> None:
    write_by_the_reference(path)

    metadata = dict(open_file(path).metadata)

    assert metadata["general.architecture"] == "flux"
    assert metadata["general.name"] == "Ünïcode ✓"
    assert metadata["flag"] == "true"
    assert metadata["third"] == metadata["tenth"] == "0.1"
    assert metadata["minus"] == str(-(1 << 40))
    assert metadata["few"] == '["a", "b"]'
    assert metadata["many"].startswith("[0, 1, 2, ")
    assert metadata["many"].endswith("31, … 1000 in all]")
    assert metadata["words"].endswith('"31", … 100 in all]')


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_version_is_read(version: int, path: Path) -> None:
    w = Writer(version)
    blocks = bytes(range(34 * 3))
    pairs = [w.text("general.architecture", "sd1"), w.array("a", U32, 2, w.u32(5) * 2)]
    raw = gguf([ONE, Info(b"q", [32, 3], Q8_0, blocks)], pairs, writer=w)

    checkpoint = PLUGIN.open(save(path, raw))

    assert checkpoint.specs == {
        "w": Spec(DTYPES["F32"], (4,)),
        "q": Spec(QUANTIZED["Q8_0"], (3, 32)),
    }
    assert checkpoint.metadata == {"general.architecture": "sd1", "a": "[5, 5]"}
    assert (bytes(checkpoint.read("w")), bytes(checkpoint.read("q"))) == (FOUR, blocks)


def test_an_alignment_of_its_own_counts(path: Path) -> None:
    two = [ONE, Info(b"v", [1], F32, FOUR[:4])]
    raw = gguf(two, [W.scalar("general.alignment", U32, 256)], align=256)

    checkpoint = PLUGIN.open(save(path, raw))

    assert checkpoint.data_offset == 256
    assert (checkpoint.read("w"), checkpoint.read("v")) == (FOUR, FOUR[:4])


def test_the_shape_before_comfyui_flattened_it_is_given(path: Path) -> None:
    dims = W.array("comfy.gguf.orig_shape.w", 5, 3, struct.pack("<3i", 1, 2, 2))

    checkpoint = PLUGIN.open(save(path, gguf([ONE], [dims])))

    assert checkpoint.specs["w"].shape == (1, 2, 2)


def test_five_axes_of_video_models_are_read(path: Path) -> None:
    """ComfyUI-GGUF's fix_5d_tensors.py puts the patch embedding of Wan and HunyuanVideo back."""
    raw = gguf([Info(b"patch_embedding.weight", [1, 2, 1, 2, 1], F32, FOUR)])

    assert PLUGIN.open(save(path, raw)).specs["patch_embedding.weight"].shape == (1, 2, 1, 2, 1)


def test_scalars_and_tensors_of_no_values_are_lawful(path: Path) -> None:
    infos = [Info(b"empty", [0, 3], F32), Info(b"scalar", [], F32, FOUR[:4])]

    checkpoint = PLUGIN.open(save(path, gguf(infos)))

    assert {n: s.shape for n, s in checkpoint.specs.items()} == {"empty": (3, 0), "scalar": ()}
    assert (checkpoint.read("empty"), checkpoint.read("scalar")) == (b"", FOUR[:4])


def test_the_last_padding_may_be_missing(path: Path) -> None:
    raw = gguf([ONE])

    assert PLUGIN.open(save(path, raw[:-16])).read("w") == FOUR


@pytest.mark.parametrize(("count", "told"), [(1, False), (3, True)])
def test_a_part_of_a_split_model_says_so(count: int, told: bool, path: Path) -> None:
    pairs = [W.scalar("split.no", 2, 0), W.scalar("split.count", 2, count)]

    notes = PLUGIN.open(save(path, gguf([ONE], pairs))).notes

    assert [f"part 1 of {count}" in note for note in notes] == [True] * told


def test_a_name_that_is_not_there_is_not_found(path: Path) -> None:
    with pytest.raises(NotFoundError, match="no tensor 'nope'"):
        PLUGIN.open(save(path, ONE_GGUF)).read("nope")


HUGE = 1 << 60
CORRUPT: dict[str, tuple[bytes, str]] = {
    "magic_alone": (b"GGUF", "ends inside its first words"),
    "version_0": (gguf(version=0), "GGUF version 0"),
    "tensor_count": (gguf([ONE], tensors=HUGE), f"claims {HUGE} tensors"),
    "pair_count": (gguf([ONE], kvs=HUGE), f"claims {HUGE} pairs"),
    "one_tensor_too_many": (gguf([ONE], tensors=2), "claims a text|ends inside|axes"),
    "key_length": (gguf([], [W.length(HUGE) + b"x"]), "key of pair 0 claims"),
    "text_length": (gguf([], [W.string("k") + W.u32(STRING) + W.length(90) + b"x"]), "ends inside"),
    "pair_type": (gguf([], [W.string("k") + W.u32(77) + bytes(20)]), "'k' is of type 77"),
    "array_count": (gguf([], [W.array("k", U32, HUGE, b"")]), f"'k' claims {HUGE} items"),
    "text_count": (gguf([], [W.array("k", STRING, 99, b"")]), "'k' claims 99 items"),
    "array_type": (gguf([], [W.array("k", 55, 1, bytes(30))]), "'k' is of type 55"),
    "nested": (
        gguf([], [W.array("k", ARRAY, 1, (W.u32(ARRAY) + W.length(1)) * 5 + bytes(99))]),
        "array in an array in an array",
    ),
    "pair_twice": (gguf([], [W.text("k", "1"), W.text("k", "2")]), "'k' appears twice"),
    "not_utf8": (gguf([], [W.text("k", b"\xff\xfe")]), "is not UTF-8"),
    "alignment_0": (gguf([ONE], [W.scalar("general.alignment", U32, 0)]), "not a power of two"),
    "alignment_12": (gguf([ONE], [W.scalar("general.alignment", U32, 12)]), "not a power of two"),
    "alignment_text": (gguf([ONE], [W.text("general.alignment", "32")]), "not a power of two"),
    "axes": (gguf([Info(b"w", [1] * 6, F32, FOUR)]), "claims 6 axes"),
    "axes_huge": (gguf([Info(b"w", [4], F32, FOUR, n_dims=1 << 31)]), "axes; at most 5 are known"),
    "overflow": (gguf([Info(b"w", [1 << 32, 1 << 32], F32, FOUR)]), "too large for any file"),
    "negative": (gguf([Info(b"w", [(1 << 64) - 1], F32, FOUR)]), "too large for any file"),
    "type": (gguf([Info(b"w", [4], 1 << 30, FOUR)]), "ggml does not have"),
    "row": (gguf([Info(b"w", [31], Q8_0, bytes(34))]), "does not fill its rows"),
    "rows": (gguf([Info(b"w", [16, 2], Q8_0, bytes(34))]), "does not fill its rows"),
    "block_scalar": (gguf([Info(b"w", [], Q8_0, bytes(34))]), "less than one block"),
    "unaligned": (gguf([Info(b"w", [4], F32, FOUR, offset=8)]), "not a multiple of 32"),
    "hole": (gguf([Info(b"w", [4], F32, FOUR + bytes(64), offset=64)]), "leaves a hole"),
    "overlap": (gguf([ONE, Info(b"v", [4], F32, FOUR, offset=0)]), "overlaps"),
    "far_away": (gguf([Info(b"w", [4], F32, FOUR, offset=1 << 40)]), "cut off"),
    "tensor_twice": (gguf([ONE, ONE]), "the tensor 'w' appears twice"),
    "cut_off": (gguf([ONE])[:-17], "cut off"),
    "trailing": (gguf([ONE], after=b"PK\x03\x04" * 20), "followed by foreign bytes"),
    "original_shape": (
        gguf([ONE], [W.array("comfy.gguf.orig_shape.w", U32, 1, W.u32(5))]),
        "original shape is stated as",
    ),
    "original_text": (
        gguf([ONE], [W.array("comfy.gguf.orig_shape.w", STRING, 1, W.string("4"))]),
        "original shape is stated as",
    ),
}


@pytest.mark.parametrize("case", CORRUPT)
def test_a_damaged_file_is_corrupt_and_says_where(case: str, path: Path) -> None:
    raw, text = CORRUPT[case]

    with pytest.raises(CorruptError, match=text) as caught:
        PLUGIN.open(save(path, raw))

    assert str(path) in str(caught.value)


def test_all_faults_are_told_at_once(path: Path) -> None:
    bad = [Info(f"w{i}".encode(), [4], F32, FOUR, offset=8 + 32 * i) for i in range(5)]

    with pytest.raises(CorruptError, match="and 2 more faults") as caught:
        PLUGIN.open(save(path, gguf(bad)))

    assert len(caught.value.faults) == 5


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (gguf([ONE], writer=Writer(3, ">")), "gguf-convert-endian"),
        (gguf(version=4), "version 4; this memcard knows 1 to 3"),
        (gguf([Info(b"w", [32], 36, bytes(18))]), "ggml type 36, not known here"),
    ],
)
def test_what_is_lawful_and_not_read_has_a_remedy(raw: bytes, text: str, path: Path) -> None:
    with pytest.raises(UnsupportedError, match=text):
        PLUGIN.open(save(path, raw))


def test_every_truncation_is_a_typed_error(path: Path) -> None:
    whole = gguf(
        [ONE, Info(b"q", [32], Q8_0, bytes(34))],
        [W.text("k", "v"), W.array("a", STRING, 1, W.string("x"))],
    )
    least = len(whole) - 30  # the padding after the last tensor may be missing

    for length in range(4, least):
        with pytest.raises(FormatError):
            PLUGIN.open(save(path, whole[:length]))


def many_tensors(n: int) -> bytes:
    infos = b"".join(W.info(Info(b"%x" % i, [0], F32), 0) for i in range(n))
    return gguf([], tensors=n)[:24] + infos


MANY = {
    "texts": lambda n: gguf([], [W.array("k", STRING, n, W.string("") * n)]),
    "tensors": many_tensors,
    "pairs": lambda n: gguf([], [W.text(str(i), "") for i in range(n)]),
    "arrays": lambda n: gguf([], [W.array("k", ARRAY, n, (W.u32(U32) + W.length(0)) * n)]),
}


@pytest.mark.parametrize("case", MANY)
def test_a_small_file_of_many_things_takes_little_time(case: str, path: Path) -> None:
    save(path, MANY[case](60_000))
    start = time.process_time()

    PLUGIN.open(path).close()

    assert time.process_time() - start < 5  # measured: 0.2 to 1 s


@pytest.mark.parametrize("case", MANY)
def test_a_small_file_of_many_things_takes_little_memory(case: str, path: Path) -> None:
    save(path, MANY[case](20_000))
    tracemalloc.start()
    try:
        PLUGIN.open(path).close()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 16e6  # so 100,000, the limit, stay below 200 MB


def test_more_things_than_the_limit_are_refused_unread(path: Path) -> None:
    with pytest.raises(UnsupportedError, match="holds 300000 tensors; the limit is 100000"):
        PLUGIN.open(save(path, gguf([], tensors=300_000, after=bytes(6_000_000))))


def test_writing_is_refused_with_a_remedy(path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"End the name in \.safetensors"):
        PLUGIN.create(path)


def test_writing_blocks_elsewhere_is_refused_before_anything_is_there(tmp_path: Path) -> None:
    from memcard.formats import create

    with (
        pytest.raises(UnsupportedError, match="--dtype fp16 dequantises"),
        create(tmp_path / "x.ckpt") as sink,
    ):
        sink.begin({"w": Spec(QUANTIZED["Q8_0"], (32,))}, {})

    assert list(tmp_path.iterdir()) == []
