"""Saves of torch.distributed.checkpoint in memcard's storage; see docs/spec/dcp.md."""

import itertools
import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.distributed.checkpoint import DefaultLoadPlanner, DefaultSavePlanner, SavePlanner

from fixtures.dcp_ranks import Box, box, load, save, save_as, unwrapped
from memcard.errors import (
    CorruptError,
    DiskError,
    IntegrityError,
    LockedError,
    MismatchError,
    NotFoundError,
    UnsupportedError,
    UsageError,
)
from memcard.formats import sniff_file
from memcard.training.hooks._dcp_folder import Part, part_of
from memcard.training.hooks.dcp import MemcardReader, MemcardWriter, saves, verify

WHOLE = torch.arange(65 * 7.0).reshape(65, 7)


def two_ranks(more=None):
    halves = [box(WHOLE, (0, 33), (0, 7)), box(WHOLE, (33, 65), (0, 7))]
    return [{"model": {"w": half, "step": torch.tensor(4)}, "run": more or {}} for half in halves]


def flipped(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(raw)


def resealed(folder: Path, change) -> None:
    """Change the index as a program would that knows the format."""
    path = folder / "index.json"
    found = json.loads(path.read_bytes())
    change(found)
    found["check"] = "0" * 64
    text = json.dumps(found, separators=(",", ":"))
    path.write_text(text.replace("0" * 64, blake3(text.encode()).hexdigest(), 1))


def test_what_was_saved_is_loaded(tmp_path):
    values = {"lr": 0.1, "betas": (0.9, 0.999), "name": "käfer", "none": None, "odd": math.nan}
    tensors = {
        "half": torch.randn(3).bfloat16(),
        "flag": torch.tensor(True),
        "empty": torch.empty(0, 3),
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "fp8": torch.ones(2).to(torch.float8_e4m3fn),
        "complex": torch.randn(3, dtype=torch.complex128),
        "conjugated": torch.randn(3, dtype=torch.complex64).conj(),
        "short": torch.randn(1, dtype=torch.float64),
    }
    save(tmp_path / "a", {"values": values, "tensors": tensors})

    found = {
        "values": dict.fromkeys(values),
        "tensors": {name: torch.zeros_like(tensor) for name, tensor in tensors.items()},
    }
    load(tmp_path / "a", found)

    assert repr(found["values"]) == repr(values)
    assert all(torch.equal(found["tensors"][name], t) for name, t in tensors.items())


def test_the_index_tells_what_lies_where(tmp_path):
    save_as(tmp_path / "a", two_ranks({"seed": 3}))

    index = json.loads((tmp_path / "a" / "index.json").read_text())
    second = load_file(tmp_path / "a" / "rank-00001.safetensors")

    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
        "index.json",
        "rank-00000.safetensors",
        "rank-00001.safetensors",
    ]
    assert index["tensors"]["model.w"] == {
        "chunks": [[0, "model.w@0,0", [0, 0], [33, 7]], [1, "model.w@33,0", [33, 0], [32, 7]]],
        "dtype": "F32",
        "shape": [65, 7],
    }
    assert index["values"]["run.seed"] == [None, 3]
    assert (index["world"], index["paths"]["model.w"]) == (2, ["model", "w"])
    raw = WHOLE[33:].numpy().tobytes()
    assert index["files"][1]["digests"]["model.w@33,0"] == blake3(raw).hexdigest()
    assert torch.equal(second["model.w@33,0"], WHOLE[33:])


def cuts(size):
    return st.lists(st.integers(0, size), max_size=3).map(lambda at: sorted({0, *at, size}))


@st.composite
def grids(draw):
    """A shape, and boxes that fill it, by the process that has them."""
    shape = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    axes = [list(itertools.pairwise(draw(cuts(size)))) for size in shape]
    boxes = list(itertools.product(*axes))
    world = draw(st.integers(1, 3))
    return shape, [(draw(st.integers(0, world - 1)), ranges) for ranges in boxes], world


@settings(max_examples=settings.default.max_examples // 2)  # each is a save and a load
@given(saved=grids(), at=st.data())
def test_any_cut_is_loaded_into_any_other(saved, at, tmp_path_factory):
    folder = tmp_path_factory.mktemp("cut")
    shape, boxes, world = saved
    whole = torch.arange(float(math.prod(shape))).reshape(shape)
    states = [
        {f"part {i}": box(whole, *ranges) for i, (r, ranges) in enumerate(boxes) if r == rank}
        for rank in range(world)
    ]
    save_as(folder / "a", [{"m": {}, **_one_name(state)} for state in states], _SeveralBoxes)
    wanted = [sorted(at.draw(st.tuples(*[st.integers(0, size)] * 2))) for size in shape]

    target = box(torch.zeros(shape), *wanted)
    load(folder / "a", {"w": target})

    assert torch.equal(
        target.as_subclass(torch.Tensor), box(whole, *wanted).as_subclass(torch.Tensor)
    )


def _one_name(state):
    return {"w": list(state.values())} if state else {}


class _SeveralBoxes(DefaultSavePlanner):
    """Takes a list of boxes as one tensor, as a ShardedTensor is."""

    def __init__(self):
        super().__init__(flatten_state_dict=False)

    def create_local_plan(self):
        from torch.distributed.checkpoint.planner import SavePlan

        self.plan = SavePlan(
            [
                item
                for part in self.state_dict.get("w", [])
                for item in part.__create_write_items__("w", part)
            ]
        )
        return self.plan

    def lookup_object(self, index):
        parts = [part for part in self.state_dict["w"] if part.offsets == index.offset]
        return parts[0].as_subclass(torch.Tensor)


def test_no_file_holds_a_pickle(tmp_path):
    save_as(tmp_path / "a", two_ranks({"list": [1, {"x": (2, 3)}], "bytes": bytes(3000)}))

    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert [sniff_file(tmp_path / "a" / name) for name in files] == [None, *["safetensors"] * 2]
    assert isinstance(json.loads((tmp_path / "a" / files[0]).read_bytes()), dict)
    for name in files:
        assert b"PK\x03\x04" not in (tmp_path / "a" / name).read_bytes()


def test_nothing_is_unpickled(tmp_path, monkeypatch):
    save(tmp_path / "a", {"run": {"seed": 3, "raw": bytes(3000)}})
    for name in ("load", "save"):
        monkeypatch.setattr(torch, name, None)

    found = {"run": {"seed": 0, "raw": b""}}
    load(tmp_path / "a", found)

    assert found == {"run": {"seed": 3, "raw": bytes(3000)}}


def test_what_no_save_can_hold_is_refused_with_its_path(tmp_path):
    state = {"a": {"b": object()}, "c": {"d": torch.eye(2).to_sparse()}, "e": lambda: 0}

    with pytest.raises(
        UnsupportedError, match=r"a\.b is a builtins\.object.*e is a builtins"
    ) as caught:
        save(tmp_path / "a", state)

    assert len(caught.value.faults) == 3
    assert saves(tmp_path) == []


def test_a_planner_that_only_pickles_is_refused(tmp_path):
    class Pickles(DefaultSavePlanner):
        lookup_object = None

    with pytest.raises(UnsupportedError, match="Pickles offers it as a pickle only"):
        save(tmp_path / "a", {"step": 3}, planner=Pickles())


def test_a_planner_that_only_unpickles_is_refused(tmp_path):
    class Unpickles(DefaultLoadPlanner):
        def load_bytes(self, read_item, value):
            raise AssertionError("not reached")

    save(tmp_path / "a", {"step": 3})

    with pytest.raises(UnsupportedError, match="Unpickles takes such values as pickles only"):
        load(tmp_path / "a", {"step": 0}, planner=Unpickles())


def test_a_planner_may_take_values_itself(tmp_path):
    class Takes(DefaultLoadPlanner):
        def load_value(self, read_item, value):
            self.state_dict[read_item.dest_index.fqn].append(value)

    save(tmp_path / "a", {"step": 3})
    found = {"step": []}
    load(tmp_path / "a", found, planner=Takes(flatten_state_dict=False))

    assert found == {"step": [3]}


def test_a_planner_that_casts_saves_what_it_gives(tmp_path):
    class Halves(DefaultSavePlanner):
        def transform_object(self, write_item, found):
            return found.half()

    save(tmp_path / "a", {"w": WHOLE}, planner=Halves())
    found = {"w": torch.zeros(65, 7)}
    load(tmp_path / "a", found)

    assert json.loads((tmp_path / "a" / "index.json").read_text())["tensors"]["w"]["dtype"] == "F16"
    assert torch.equal(found["w"], WHOLE)


def test_a_planner_that_gives_another_shape_is_refused(tmp_path):
    class Turns(DefaultSavePlanner):
        def transform_object(self, write_item, found):
            return found.T

    with pytest.raises(MismatchError, match=r"w: Turns planned a chunk of \[65, 7\] and"):
        save(tmp_path / "a", {"w": WHOLE}, planner=Turns())


def test_a_folder_is_never_used_again(tmp_path):
    save(tmp_path / "a", {"step": 3})

    with pytest.raises(UsageError, match="is there already"):
        save(tmp_path / "a", {"step": 4})

    found = {"step": 0}
    load(tmp_path / "a", found)
    assert found == {"step": 3}


def test_an_empty_folder_may_be_there_and_the_ones_above_need_not(tmp_path):
    (tmp_path / "a").mkdir()

    save(tmp_path / "a", {"step": 3})
    save(tmp_path / "x" / "y" / "b", {"step": 3})

    verify(tmp_path / "a")
    verify(tmp_path / "x" / "y" / "b")


def test_checkpoint_id_names_the_folder(tmp_path):
    writer, reader, found = MemcardWriter(), MemcardReader(), {"step": 0}

    with unwrapped():
        for step in (1, 2):
            dcp.save(
                {"step": step},
                checkpoint_id=tmp_path / str(step),
                storage_writer=writer,
                no_dist=True,
            )
        dcp.load(found, checkpoint_id=tmp_path / "1", storage_reader=reader, no_dist=True)

    assert found == {"step": 1}
    with pytest.raises(UsageError, match="nobody said where the save is"), unwrapped():
        dcp.save({"step": 1}, storage_writer=MemcardWriter(), no_dist=True)


def test_a_save_in_the_background_is_of_the_moment_it_was_asked_for(tmp_path):
    state = {"w": torch.zeros(3), "step": 1}

    with unwrapped():
        future = dcp.async_save(state, storage_writer=MemcardWriter(tmp_path / "a"), no_dist=True)
        state["w"] += 1
        getattr(future, "upload_completion", future).result()

    found = {"w": torch.ones(3), "step": 0}
    load(tmp_path / "a", found)
    assert found["w"].sum() == 0


def test_every_flipped_byte_is_found_before_anything_is_loaded(tmp_path):
    save_as(tmp_path / "a", two_ranks({"seed": 3}))
    for name in ("rank-00000.safetensors", "rank-00001.safetensors", "index.json"):
        path = tmp_path / "a" / name
        for at in range(0, path.stat().st_size, 61):
            flipped(path, at)
            found = {"model": {"w": torch.zeros(65, 7)}, "run": {"seed": 0}}
            with pytest.raises((IntegrityError, CorruptError)):
                load(tmp_path / "a", found)
            assert not found["model"]["w"].any()
            flipped(path, at)

    load(tmp_path / "a", found)
    assert torch.equal(found["model"]["w"], WHOLE)


def test_a_flipped_byte_is_named_by_file_and_tensor(tmp_path):
    save_as(tmp_path / "a", two_ranks())
    path = tmp_path / "a" / "rank-00001.safetensors"
    flipped(path, path.stat().st_size - 5)

    with pytest.raises(
        IntegrityError, match=r"rank-00001\.safetensors: 'model\.w@33,0': the bytes"
    ):
        load(tmp_path / "a", {"model": {"w": torch.zeros(65, 7)}})
    with pytest.raises(IntegrityError, match=r"rank-00001\.safetensors: 'model\.w@33,0'"):
        verify(tmp_path / "a")


def test_only_what_is_needed_is_read(tmp_path):
    save_as(tmp_path / "a", two_ranks())
    flipped(path := tmp_path / "a" / "rank-00001.safetensors", path.stat().st_size - 5)

    upper = box(torch.zeros(65, 7), (3, 9), (0, 7))
    load(tmp_path / "a", {"model": {"w": upper}})

    assert torch.equal(upper.as_subclass(torch.Tensor), WHOLE[3:9])


def test_a_missing_file_is_named(tmp_path):
    save_as(tmp_path / "a", two_ranks())
    (tmp_path / "a" / "rank-00001.safetensors").unlink()

    with pytest.raises(NotFoundError, match=r"rank-00001\.safetensors: is missing"):
        load(tmp_path / "a", {"model": {"w": torch.zeros(65, 7)}})


def test_files_of_another_save_are_told_apart(tmp_path):
    for name, factor in (("a", 1), ("b", 2)):
        halves = [box(WHOLE * factor, (0, 33), (0, 7)), box(WHOLE * factor, (33, 65), (0, 7))]
        save_as(tmp_path / name, [{"w": half} for half in halves])
    shutil.copy(tmp_path / "b" / "rank-00001.safetensors", tmp_path / "a")

    with pytest.raises(IntegrityError, match="w@33,0"):
        load(tmp_path / "a", {"w": torch.zeros(65, 7)})


def test_an_unfinished_save_is_none(tmp_path):
    shutil.copytree(_saved(tmp_path / "1"), tmp_path / "2")
    (tmp_path / "2" / "index.json").unlink()

    with pytest.raises(NotFoundError, match=r"2: holds no finished save; index\.json is missing"):
        load(tmp_path / "2", {"step": 0})
    assert saves(tmp_path) == [tmp_path / "1"]


def _saved(path, **state):
    save(path, state or {"step": 3})
    return path


def test_saves_are_listed_by_their_last_number(tmp_path):
    for name in ("step-9", "step-10", "final", "v2-step-1"):
        _saved(tmp_path / name)
    (tmp_path / "step-11").mkdir()

    assert [path.name for path in saves(tmp_path)] == ["step-10", "step-9", "v2-step-1", "final"]
    assert saves(tmp_path / "nowhere") == []


def test_a_newer_version_is_refused(tmp_path):
    resealed(_saved(tmp_path / "a"), lambda index: index.update(version=2))

    with pytest.raises(UnsupportedError, match="is of version 2; this memcard reads version 1"):
        load(tmp_path / "a", {"step": 0})


def test_a_save_of_torch_itself_is_told_apart(tmp_path):
    with unwrapped():
        dcp.save({"step": 1}, checkpoint_id=tmp_path / "a", no_dist=True)

    with pytest.raises(UnsupportedError, match="is a save of torch's own storage"):
        load(tmp_path / "a", {"step": 0})


WRONG = {
    "no files": lambda index: index.pop("files"),
    "a file elsewhere": lambda index: index["files"][0].update(name="../rank-00000.safetensors"),
    "a digest that is none": lambda index: index["files"][0]["digests"].update({"w": "x"}),
    "an unknown dtype": lambda index: index["tensors"]["w"].update(dtype="F99"),
    "a negative size": lambda index: index["tensors"]["w"].update(shape=[-65, 7]),
    "a hole": lambda index: index["tensors"]["w"].update(shape=[66, 7]),
    "a chunk outside": lambda index: index["tensors"]["w"]["chunks"][0].__setitem__(2, [1, 0]),
    "a chunk of other axes": lambda index: index["tensors"]["w"]["chunks"][0].__setitem__(2, [0]),
    "a chunk in no file": lambda index: index["tensors"]["w"]["chunks"][0].__setitem__(0, 7),
    "a chunk of no name": lambda index: index["tensors"]["w"]["chunks"][0].__setitem__(1, "v"),
    "a value in no file": lambda index: index["values"]["step"].__setitem__(0, -1),
    "a value that names nothing": lambda index: index["values"].update(step=[0, {"$tensor": "v"}]),
    "a value without its file": lambda index: index["values"].update(step=[None, {"$tensor": "w"}]),
    "an unknown kind of value": lambda index: index["values"].update(step=[None, {"$call": "x"}]),
    "a path that is none": lambda index: index["paths"].update(w=[]),
    "another dtype than the file": lambda index: index["tensors"]["w"].update(dtype="I32"),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_an_index_that_breaks_the_rules_is_refused(change, tmp_path):
    resealed(_saved(tmp_path / "a", w=WHOLE, step=3), change)

    with pytest.raises((CorruptError, NotFoundError, UnsupportedError), match=str(tmp_path)):
        load(tmp_path / "a", {"w": torch.zeros(65, 7), "step": 0})


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_an_index_that_is_no_index_is_refused(raw, tmp_path):
    (_saved(tmp_path / "a") / "index.json").write_bytes(raw)

    with pytest.raises(CorruptError, match=r"index\.json"):
        load(tmp_path / "a", {"step": 0})


def test_the_loading_planner_knows_paths_and_sizes(tmp_path):
    """``dcp_to_torch_save`` and its kind build the state from the index alone."""
    from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner

    save_as(tmp_path / "a", two_ranks({"seed": [1, {"x": 2}]}))

    found = {}
    with unwrapped():
        dcp.state_dict_loader._load_state_dict(
            found,
            storage_reader=MemcardReader(tmp_path / "a"),
            planner=_EmptyStateDictLoadPlanner(),
            no_dist=True,
        )

    assert torch.equal(found["model"]["w"], WHOLE)
    assert found["run"] == {"seed": [1, {"x": 2}]}


def test_without_collectives_it_is_refused(tmp_path):
    writer = MemcardWriter(tmp_path / "a")

    with pytest.raises(UnsupportedError, match="use_collectives=False"):
        writer.set_up_storage_writer(True, rank=0, use_collectives=False)


def test_the_plan_may_be_cached(tmp_path):
    """Torch then sends no plan, and the one it kept tells the file of a process."""
    found = {"w": torch.zeros(65, 7)}
    try:
        for name in ("1", "2", "3"):
            save(
                tmp_path / name, {"w": WHOLE}, planner=DefaultSavePlanner(enable_plan_caching=True)
            )
            load(tmp_path / name, found)
    finally:
        for kept in vars(SavePlanner).values():
            if isinstance(kept, dict):
                kept.clear()

    assert torch.equal(found["w"], WHOLE)


def test_what_a_killed_save_left_is_swept(tmp_path):
    (tmp_path / ".empty.dcp.part").mkdir()
    for name in (".a.dcp.part", ".b.dcp.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rank-00000.safetensors").write_bytes(b"half")
        (tmp_path / name / ".rank-00001.safetensors.01234567.part").write_bytes(b"less")
    (tmp_path / ".c.dcp.part").mkdir()
    (tmp_path / ".c.dcp.part" / "letters.txt").write_text("not ours")

    _saved(tmp_path / "a")

    assert sorted(path.name for path in tmp_path.iterdir()) == [".c.dcp.part", "a"]


def test_a_save_that_is_being_written_is_left_alone(tmp_path):
    part = Part(tmp_path / "a")
    (part.folder / "rank-00000.safetensors").write_bytes(b"half")

    _saved(tmp_path / "b")
    with pytest.raises(LockedError, match="another process is writing this save"):
        _saved(tmp_path / "a")

    assert part.folder.is_dir()
    part.release()
    _saved(tmp_path / "a")


def test_a_save_that_failed_does_not_stop_the_next(tmp_path):
    writer = MemcardWriter(tmp_path / "a")
    with pytest.raises(UnsupportedError), unwrapped():
        dcp.save({"w": WHOLE, "x": object()}, storage_writer=writer, no_dist=True)
    assert part_of(tmp_path / "a").is_dir()

    with unwrapped():
        dcp.save({"w": WHOLE}, storage_writer=writer, no_dist=True)

    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_processes_that_share_no_disk_are_told(tmp_path):
    writer, other = MemcardWriter(tmp_path / "a"), MemcardWriter(tmp_path / "elsewhere" / "a")
    planner = DefaultSavePlanner()
    planner.set_up_planner({"w": WHOLE}, None, True)
    (plan,) = writer.prepare_global_plan([planner.create_local_plan()])

    with pytest.raises(NotFoundError, match="All processes must save to one disk that they share"):
        other.write_data(plan, planner)


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_bytes(b"")])
def test_a_file_the_first_process_cannot_see_is_told(change, tmp_path):
    part = Part(tmp_path / "a")
    written = part.folder / "rank-00001.safetensors"
    written.write_bytes(b"some")
    change(written)

    with pytest.raises(
        NotFoundError, match=r"rank-00001\.safetensors is not here as other processes"
    ):
        part.finish(b"{}", {written.name: 4})

    assert saves(tmp_path) == []


def test_a_full_disk_is_told_and_the_save_before_is_sound(tmp_path, monkeypatch):
    _saved(tmp_path / "1", w=WHOLE)

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("memcard.formats._planned._reserve", full)
    with pytest.raises(DiskError, match="No space left"):
        save(tmp_path / "2", {"w": WHOLE})

    assert saves(tmp_path) == [tmp_path / "1"]
    verify(tmp_path / "1")


def test_tied_tensors_are_stored_once(tmp_path):
    save(tmp_path / "a", {"x": WHOLE, "y": WHOLE})

    assert list(load_file(tmp_path / "a" / "rank-00000.safetensors")) == ["x"]
    found = {"x": torch.zeros(65, 7), "y": torch.zeros(65, 7)}
    load(tmp_path / "a", found)
    assert torch.equal(found["y"], WHOLE)


def test_values_without_tensors_need_no_file(tmp_path):
    save(tmp_path / "a", {"step": 3})

    assert [path.name for path in (tmp_path / "a").iterdir()] == ["index.json"]


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_the_guide_resumes_from_the_newest_sound_save(tmp_path, monkeypatch, capsys):
    guide = Path(__file__).parents[4] / "docs" / "dcp.md"
    shown = guide.read_text("utf-8").split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(shown, names)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters())

    assert names["resume"](model, optimizer) == 0
    weights = {}
    for step in (1, 2):
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        names["save"](model, optimizer, step)
        weights[step] = model.weight.clone()
    flipped(tmp_path / "runs/a/step-000000002/rank-00000.safetensors", -1)

    assert names["resume"](model, optimizer) == 1
    assert torch.equal(model.weight, weights[1])
    assert "do not match their digest" in capsys.readouterr().out


def test_only_folders_are_names():
    assert MemcardWriter.validate_checkpoint_id("runs/a") is True
    assert MemcardReader.validate_checkpoint_id("s3://bucket/a") is False


def test_boxes_are_tensors_to_torch():
    assert isinstance(box(WHOLE, (0, 2), (0, 2)), Box)
