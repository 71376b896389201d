from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from transformers import CLIPTextConfig, CLIPTextModel
from transformers.trainer_utils import load_sharded_checkpoint

from fixtures.safetensors_bytes import entry, safetensors
from fixtures.torch_archive import (
    ONE,
    ONE_DATA,
    name,
    pack,
    state_dict,
    tensor,
    text,
    write_archive,
)
from memcard.core import atomic
from memcard.core.tensors import DTYPES, Spec
from memcard.errors import (
    CorruptError,
    IntegrityError,
    NotFoundError,
    UnsafeError,
    UnsupportedError,
    UsageError,
)
from memcard.formats import create, open_file
from memcard.formats._shards import split

F4 = Spec(DTYPES["F32"], (4,))


def numbers(seed: int) -> bytes:
    return struct.pack("<4f", *(seed + i for i in range(4)))


def shard(path: Path, tensors: Mapping[str, int], metadata: Any = None) -> Path:
    header = {n: entry(16 * i, 16 * i + 16) for i, n in enumerate(tensors)}
    if metadata:
        header["__metadata__"] = metadata
    path.write_bytes(safetensors(header, b"".join(map(numbers, tensors.values()))))
    return path


def index(folder: Path, weight_map: Any, **metadata: Any) -> Path:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": metadata, "weight_map": weight_map}))
    return path


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """An index of two shards, tensors not in the order of the shards."""
    shard(tmp_path / "a.safetensors", {"w": 1, "v": 2}, {"format": "pt", "title": "x"})
    shard(tmp_path / "b.safetensors", {"u": 3}, {"format": "pt"})
    where = {"u": "b.safetensors", "w": "a.safetensors", "v": "a.safetensors"}
    return index(tmp_path, where, total_size=48, total_parameters=12)


def test_the_index_decides_names_and_order(two: Path) -> None:
    checkpoint = open_file(two)

    assert checkpoint.format == "sharded"
    assert list(checkpoint.specs.items()) == [("u", F4), ("w", F4), ("v", F4)]
    assert [bytes(checkpoint.read(n)) for n in "uwv"] == [numbers(3), numbers(1), numbers(2)]
    assert checkpoint.metadata == {"title": "x", "total_parameters": "12"}
    assert checkpoint.notes == ()
    assert [p.name for p in checkpoint.parts] == ["b.safetensors", "a.safetensors"]  # type: ignore[attr-defined]


def test_extents_are_in_the_shards(two: Path) -> None:
    place = open_file(two).extent("v")

    assert place is not None
    assert place.path == two.parent / "a.safetensors"
    assert place.path.read_bytes()[place.offset :][:16] == numbers(2)


def test_shards_may_be_torch_files(tmp_path: Path) -> None:
    write_archive(tmp_path / "pytorch_model-00001-of-00001.bin", ONE, ONE_DATA)
    path = tmp_path / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"weight_map": {"w": "pytorch_model-00001-of-00001.bin"}}))

    checkpoint = open_file(path)

    assert bytes(checkpoint.read("w")) == numbers(1)
    assert checkpoint.notes == ()


@pytest.mark.parametrize("variant", [False, True])
def test_a_link_to_a_regular_file_is_a_shard(variant: bool, two: Path, tmp_path: Path) -> None:
    """As in the cache of Hugging Face."""
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (two.parent / "a.safetensors").rename(blobs / "0123abcd")
    target = blobs / "0123abcd" if variant else blobs / "gone"
    (two.parent / "a.safetensors").symlink_to(target)
    if variant:
        assert bytes(open_file(two).read("w")) == numbers(1)
        return
    with pytest.raises(CorruptError, match=r"the shard 'a\.safetensors' is missing"):
        open_file(two)


@pytest.mark.parametrize(
    "bad",
    ["../a.safetensors", "/etc/passwd", "sub/a.safetensors", "..", "", "a\\b", "C:a", "a" * 300],
)
def test_a_shard_beyond_the_folder_is_refused(bad: str, two: Path) -> None:
    index(two.parent, {"w": bad})

    with pytest.raises(CorruptError, match="not the plain name of a file beside the index"):
        open_file(two)


BAD_INDEX: dict[str, tuple[bytes, str]] = {
    "not_json": (b'{"weight_map": {', "are not JSON"),
    "deep": (b'{"weight_map":' * 5000, "nested too deeply"),
    "list": (b'{"weight_map": ["a"]}', "weight_map is not a map"),
    "number": (b'{"weight_map": {"w": 1}}', "'w' lies in 1"),
    "twice": (b'{"weight_map": {"w": "a", "w": "b"}}', "1 keys appear twice"),
    "utf8": (b'{"weight_map": {"\xff": "a"}}', "is not UTF-8"),
    "digits": (b'{"weight_map": {"w": ' + b"9" * 5000 + b"}}", "are not JSON"),
}


@pytest.mark.parametrize("case", BAD_INDEX)
def test_a_broken_index_is_corrupt(case: str, tmp_path: Path) -> None:
    raw, told = BAD_INDEX[case]
    (tmp_path / "model.safetensors.index.json").write_bytes(raw)

    with pytest.raises(CorruptError, match=told) as caught:
        open_file(tmp_path / "model.safetensors.index.json")

    assert "model.safetensors.index.json" in str(caught.value)


def test_all_missing_tensors_are_told(two: Path) -> None:
    index(two.parent, {str(i): "a.safetensors" for i in range(5)})

    with pytest.raises(
        CorruptError, match=r"a\.safetensors does not hold '0'.* and 2 more"
    ) as caught:
        open_file(two)

    assert len(caught.value.faults) == 5


def test_tensors_that_are_in_no_index_are_a_note(two: Path) -> None:
    index(two.parent, {"w": "a.safetensors"}, total_size=16)

    checkpoint = open_file(two)

    assert list(checkpoint.specs) == ["w"]
    assert checkpoint.notes == ("1 tensors are in no index and left out (v).",)


def test_a_wrong_total_is_a_note(two: Path) -> None:
    index(two.parent, {"w": "a.safetensors", "v": "a.safetensors"}, total_size=4711)

    assert open_file(two).notes == ("The index states 4711 bytes of tensors; there are 32.",)


def test_one_hostile_shard_makes_the_whole_unsafe(two: Path) -> None:
    call = b"\x80\x02" + name("posix", "system") + text("true") + b"\x85R."
    write_archive(two.parent / "b.safetensors", call)
    (two.parent / "a.safetensors").write_bytes(b"damaged")

    with pytest.raises(UnsafeError, match=r"posix\.system.*1 more shard") as caught:
        open_file(two)

    assert any("damaged" in f or "format known" in f or "7 bytes" in f for f in caught.value.faults)


def test_salvage_reads_the_tensors_of_a_hostile_shard(tmp_path: Path) -> None:
    call = name("posix", "system") + text("true") + b"\x85R"
    program = state_dict({"w": tensor("0", [4], [1]), "evil": call})
    write_archive(tmp_path / "a.bin", program, ONE_DATA)
    path = index(tmp_path, {"w": "a.bin"})

    with pytest.raises(UnsafeError, match=r"posix\.system"):
        open_file(path)
    rescued = open_file(path, salvage=True)

    assert bytes(rescued.read("w")) == numbers(1)
    assert any("posix.system" in note for note in rescued.notes)


def test_an_index_is_no_shard(two: Path) -> None:
    index(two.parent, {"w": two.name})

    with pytest.raises(UnsupportedError, match="is an index of shards"):
        open_file(two)


def handles_below(folder: Path) -> int:
    """Open files of this process that lie in a folder; other tests' files may close at any time."""
    found = 0
    for handle in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):
            found += handle.readlink().is_relative_to(folder)
    return found


def test_only_few_of_many_shards_stay_open(tmp_path: Path) -> None:
    names = {f"w{i}": shard(tmp_path / f"{i}.safetensors", {f"w{i}": i}).name for i in range(60)}

    checkpoint = open_file(index(tmp_path, names))
    found = [bytes(checkpoint.read(n)) for n in [*names, *reversed(names)]]

    assert 0 < handles_below(tmp_path) <= 32  # 16 files, and a map of each has a handle of its own
    assert found == [numbers(i) for i in [*range(60), *reversed(range(60))]]
    checkpoint.close()
    assert handles_below(tmp_path) == 0
    with pytest.raises(NotFoundError):
        checkpoint.read("w0")


def test_threads_may_read_all_shards_at_once(tmp_path: Path) -> None:
    names = {f"w{i}": shard(tmp_path / f"{i}.safetensors", {f"w{i}": i}).name for i in range(40)}
    checkpoint = open_file(index(tmp_path, names))

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda n: bytes(checkpoint.read(n)), [*names] * 5))

    assert found == [numbers(i) for i in range(40)] * 5


def test_a_shard_that_changed_meanwhile_is_noticed(tmp_path: Path) -> None:
    names = {f"w{i}": shard(tmp_path / f"{i}.safetensors", {f"w{i}": i}).name for i in range(20)}
    checkpoint = open_file(index(tmp_path, names))
    checkpoint.check_unchanged()  # type: ignore[attr-defined]
    (tmp_path / "0.safetensors").unlink()
    shard(tmp_path / "0.safetensors", {"w0": 99})

    with pytest.raises(IntegrityError, match=r"0\.safetensors: changed"):
        checkpoint.check_unchanged()  # type: ignore[attr-defined]
    with pytest.raises(IntegrityError, match=r"0\.safetensors: changed"):
        checkpoint.read("w0")  # its handle had been given back


# writing

SPECS = {f"w{i}": F4 for i in range(7)}


def write(path: Path, *, specs: Mapping[str, Spec] = SPECS, **options: Any) -> Path:
    with create(path, **options) as sink:
        sink.begin(specs, {"title": "ü"})
        for i, n in enumerate(specs):
            sink.write(n, memoryview(numbers(i)))
    assert sink.size == sum(p.stat().st_size for p in written_by(sink.result))
    return sink.result


def written_by(result: Path) -> set[Path]:
    if result.suffix != ".json":
        return {result}
    shards = set(json.loads(result.read_text())["weight_map"].values())
    return {result, *(result.with_name(name) for name in shards)}


def below(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_what_does_not_fit_is_cut_in_order(tmp_path: Path) -> None:
    found = write(tmp_path / "m.safetensors", max_shard=50)

    assert found == tmp_path / "m.safetensors.index.json"
    assert below(tmp_path) == [
        *(f"m-0000{i}-of-00003.safetensors" for i in (1, 2, 3)),
        "m.safetensors.index.json",
    ]
    checkpoint = open_file(found)
    assert list(checkpoint.specs) == list(SPECS)
    assert [bytes(checkpoint.read(n)) for n in SPECS] == [numbers(i) for i in range(7)]
    assert (checkpoint.metadata, checkpoint.notes) == ({"title": "ü"}, ())


def test_what_fits_is_one_plain_file(tmp_path: Path) -> None:
    assert write(tmp_path / "m.safetensors", max_shard=112) == tmp_path / "m.safetensors"
    assert below(tmp_path) == ["m.safetensors"]
    assert open_file(tmp_path / "m.safetensors").metadata == {"title": "ü"}


def test_the_name_of_an_index_gives_one_in_any_case(tmp_path: Path) -> None:
    write(tmp_path / "m.safetensors.index.json")

    assert below(tmp_path) == ["m-00001-of-00001.safetensors", "m.safetensors.index.json"]


def test_a_tensor_larger_than_a_shard_stands_alone() -> None:
    sizes = {"a": 1, "b": 9, "c": 2, "d": 2, "e": 0}
    specs = {n: Spec(DTYPES["U8"], (size,)) for n, size in sizes.items()}

    assert split(specs, 4) == [["a"], ["b"], ["c", "d", "e"]]


def test_shards_so_small_that_handles_run_out_are_refused(tmp_path: Path) -> None:
    many = {str(i): F4 for i in range(600)}

    with pytest.raises(UsageError, match="make 600 files; at most 512"):
        write(tmp_path / "m.safetensors", specs=many, max_shard=1)

    assert below(tmp_path) == []


def test_nothing_is_replaced_unless_asked(tmp_path: Path) -> None:
    write(tmp_path / "m.safetensors", max_shard=50)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}

    with pytest.raises(UsageError, match=r"m-00001-of-00003\.safetensors, .* would be replaced"):
        write(tmp_path / "m.safetensors", max_shard=50)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before

    write(tmp_path / "m.safetensors", max_shard=50, overwrite=True)
    assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before


@pytest.mark.parametrize("fails_at", range(9))
def test_an_error_while_names_are_given_leaves_the_old_set(
    fails_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = write(tmp_path / "m.safetensors", max_shard=50)
    before = {p: p.read_bytes() for p in tmp_path.iterdir()}
    rename, count = Path.rename, iter(range(100))

    def failing(self: Path, target: Path) -> Path:
        if next(count) == fails_at:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    if fails_at < 8:  # four names aside, four in place
        with pytest.raises(OSError, match="Input/output"):
            other_content(tmp_path / "m.safetensors")
        assert {p: p.read_bytes() for p in tmp_path.iterdir()} == before
    else:
        other_content(tmp_path / "m.safetensors")
        assert {p.name for p in tmp_path.iterdir()} == {p.name for p in before}
        assert bytes(open_file(old).read("w0")) == bytes(16)


def other_content(path: Path) -> None:
    with create(path, max_shard=50, overwrite=True) as sink:
        sink.begin(SPECS, {})
        for n in SPECS:
            sink.write(n, memoryview(bytes(16)))


def test_the_index_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks in between sees no index, not one of another set."""
    write(tmp_path / "m.safetensors", max_shard=50)
    rename, seen = Path.rename, []

    def watching(self: Path, target: Path) -> Path:
        seen.append("m.safetensors.index.json" in below(tmp_path))
        return rename(self, target)

    monkeypatch.setattr(atomic.Path, "rename", watching)
    write(tmp_path / "m.safetensors", max_shard=50, overwrite=True)

    assert seen == [True, *[False] * 7]


def test_what_is_left_of_another_layout_is_a_note(tmp_path: Path) -> None:
    write(tmp_path / "m.safetensors")
    write(tmp_path / "m.safetensors", max_shard=20)
    old = {p.name for p in tmp_path.iterdir() if "-of-00007" in p.name}

    with create(tmp_path / "m.safetensors", max_shard=50, overwrite=True) as sink:
        sink.begin(SPECS, {})
        for n in SPECS:
            sink.write(n, memoryview(bytes(16)))

    assert "m-00001-of-00007.safetensors" in sink.notes[0]
    assert "and 5 more lie there as well" in sink.notes[0]
    assert old < {p.name for p in tmp_path.iterdir()}  # nothing of the user's is removed unasked


def text_model() -> CLIPTextModel:
    torch.manual_seed(0)
    small = CLIPTextConfig(
        hidden_size=32, intermediate_size=37, num_attention_heads=4, num_hidden_layers=2,
        vocab_size=100, bos_token_id=0, eos_token_id=2,
    )  # fmt: skip
    return CLIPTextModel(small)


def test_transformers_loads_what_is_written(tmp_path: Path) -> None:
    state = text_model().state_dict()
    specs = {n: Spec(DTYPES["F32"], tuple(t.shape)) for n, t in state.items()}
    with create(tmp_path / "model.safetensors", max_shard=20_000) as sink:
        sink.begin(specs, {})
        for n, values in state.items():
            sink.write(n, memoryview(values.numpy().tobytes()))
    other = text_model()
    for values in other.state_dict().values():
        values.zero_()

    load_sharded_checkpoint(other, str(tmp_path))

    assert len(below(tmp_path)) > 3
    assert all(torch.equal(t, state[n]) for n, t in other.state_dict().items())


@pytest.mark.parametrize("safe", [True, False])
def test_what_diffusers_writes_in_shards_is_read_bit_by_bit(safe: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = UNet2DModel(sample_size=8, block_out_channels=(32, 32), layers_per_block=1,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"))  # fmt: skip
    model.save_pretrained(tmp_path, max_shard_size="100KB", safe_serialization=safe)
    (path,) = tmp_path.glob("*.index.json")

    checkpoint = open_file(path)

    state = model.state_dict()
    assert set(checkpoint.specs) == set(state)
    assert all(bytes(checkpoint.read(n)) == t.numpy().tobytes() for n, t in state.items())


def test_a_zip_of_shards_is_not_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(pack([("a/data.txt", b"{}")]))

    with pytest.raises(UnsupportedError):
        open_file(tmp_path / "x.zip")
