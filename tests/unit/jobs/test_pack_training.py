"""Saves of a training are stored as the way from one to the next, and every one comes back as it was."""

from __future__ import annotations

import tempfile
import tracemalloc
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fixtures.packing import Arrays, Folder
from memcard.core.tensors import DTYPES, Spec
from memcard.errors import CorruptError, UnsupportedError
from memcard.jobs import _pack_training
from memcard.jobs._stored import open_stored
from memcard.jobs._training_path import FIRST, MARK, SECOND, Document, PathCheckpoint
from memcard.maths.training_path import Path as Way
from memcard.store import packed as records
from memcard.store.objects import Objects

SHAPES = {
    "text.embeddings.word.weight": (600, 32),
    "text.layer.0.dense.weight": (96, 96),
    "text.layer.0.bias": (96,),
}
WORDS = "text.embeddings.word.weight"


def series(count: int, *, apart: int = 6, prefix: str = "", seed: int = 0) -> list[Arrays]:
    """Train with PyTorch's AdamW: a base without moments, then saves; most words never come."""
    rng = torch.Generator().manual_seed(seed)
    weights = {
        n: torch.nn.Parameter(torch.randn(s, generator=rng) * 0.05) for n, s in SHAPES.items()
    }
    optimizer = torch.optim.AdamW(weights.values(), lr=1e-3, weight_decay=0.01)
    pull = {n: torch.randn(s, generator=rng) * 1e-3 for n, s in SHAPES.items()}
    found = [{prefix + n: w.detach().numpy().copy() for n, w in weights.items()}]
    for step in range(1, count * apart + 1):
        for name, weight in weights.items():
            weight.grad = pull[name] + torch.randn(SHAPES[name], generator=rng) * 1e-3
            if name == WORDS:
                came = torch.randint(60, (20,), generator=rng) + step // 12
                weight.grad *= torch.zeros(SHAPES[name]).index_fill_(0, came, 1.0)
        optimizer.step()
        if step % apart == 0:
            found.append(_save(weights, optimizer, prefix))
    return found


def _save(weights: dict[str, Any], optimizer: Any, prefix: str) -> Arrays:
    save = {prefix + n: w.detach().numpy().copy() for n, w in weights.items()}
    for name, weight in weights.items():
        for key in ("exp_avg", "exp_avg_sq"):
            save[f"optimizer.{name}.{key}"] = optimizer.state[weight][key].numpy().copy()
    return save


@pytest.fixture(scope="module", name="saves")
def _saves() -> list[Arrays]:
    return series(6)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def add(folder: Folder, saves: list[Arrays]) -> None:
    for number, arrays in enumerate(saves):
        folder.add(f"save-{number}", arrays)


def recipe(folder: Folder, name: str) -> dict[str, Any]:
    record = records.get(folder.library.layout, folder.manifest(name))
    assert record is not None
    return dict(record.recipe or {})


@pytest.mark.parametrize("prefix", ["", "model."])
def test_saves_are_stored_as_the_way_from_one_to_the_next(prefix: str, folder: Folder) -> None:
    saves = series(3, prefix=prefix)
    add(folder, saves)

    done = {d.name: d for d in folder.library.pack().done}

    assert done["save-2"].how.startswith("trained from")
    document = Document.from_dict(recipe(folder, "save-2"))
    assert document.path.steps == 6
    assert set(document.weights) == {prefix + n for n in SHAPES if n != "text.layer.0.bias"}
    assert document.source == folder.manifest("save-1")
    whole = saves[2][prefix + WORDS].nbytes
    objects = Objects.everything(folder.library.layout)
    words = next(t for t in folder.tensors("save-2") if t.spec.nbytes == whole)
    stored = objects.get(words.blake3 or "")
    assert stored is not None
    assert stored.kind == "residual"
    assert stored.stored < 0.15 * whole  # nine of ten words did not come
    objects.close()
    folder.hide()
    folder.check()


def test_no_save_is_deeper_than_four(folder: Folder, saves: list[Arrays]) -> None:
    add(folder, saves)

    folder.library.pack()

    names = {folder.manifest(f"save-{i}"): f"save-{i}" for i in range(len(saves))}
    depths: dict[str | None, int] = {None: -1}
    for name in names.values():
        source = recipe(folder, name).get("source")
        depths[name] = 1 + depths[names.get(source or "")]
    assert max(depths.values()) in (2, 3, 4)
    folder.hide()
    folder.check()


def test_a_save_outlives_those_it_was_trained_from(folder: Folder, saves: list[Arrays]) -> None:
    add(folder, saves[:4])
    folder.library.pack()
    folder.hide()

    for name in ("save-0", "save-1", "save-2"):
        folder.library.rm(name)
        del folder.digests[name]
    folder.library.gc(days=0)

    folder.check()


def test_a_save_in_between_may_be_missing(folder: Folder, saves: list[Arrays]) -> None:
    for number in (0, 1, 4):
        folder.add(f"save-{number}", saves[number])

    folder.library.pack()

    assert Document.from_dict(recipe(folder, "save-4")).path.steps in (18, 24)
    folder.hide()
    folder.check()


def test_tensors_are_read_one_by_one_and_in_pieces(folder: Folder, saves: list[Arrays]) -> None:
    add(folder, saves[:4])
    folder.library.pack()
    folder.hide()

    with closing(open_stored(folder.library.layout, folder.manifest("save-3"))) as found:
        for name, values in saves[3].items():
            assert found.read(name) == values.tobytes(), name
        part = memoryview(bytearray(11))
        found.readinto(WORDS, part, 1001)
    assert part == saves[3][WORDS].tobytes()[1001:1012]


def test_casts_and_merges_of_saves_are_still_recipes(folder: Folder, saves: list[Arrays]) -> None:
    add(folder, saves[:4])
    a, b = saves[2], saves[3]
    plain = [n for n in a if not n.startswith("optimizer.")]
    folder.add("merge", {n: np.float32(0.5) * a[n] + np.float32(0.5) * b[n] for n in plain})
    folder.add("half", {n: b[n].astype("f2") for n in plain})

    done = {d.name: d.stored for d in folder.library.pack().done}

    assert done["half"] == 0
    assert done["merge"] < 3000
    folder.hide()
    folder.check()


def test_a_frozen_tensor_of_a_trained_one_takes_nothing_again(
    folder: Folder, saves: list[Arrays]
) -> None:
    add(folder, saves[:2])
    rng = np.random.default_rng(0)
    dense = "text.layer.0.dense.weight"
    other = {n: saves[1][n].copy() for n in SHAPES}
    other[dense] = other[dense] + (rng.standard_normal(other[dense].shape) * 1e-4).astype("f4")
    folder.library.pack()
    folder.add("other", other)

    done = {d.name: d.stored for d in folder.library.pack().done}

    assert done["other"] < 0.85 * other[dense].nbytes
    folder.hide()
    folder.check()


def test_a_twin_of_a_save_takes_nothing(folder: Folder, saves: list[Arrays]) -> None:
    add(folder, saves)
    folder.library.pack()
    last = len(saves) - 1
    path = folder.root / "twin.ckpt"
    torch.save({n: torch.from_numpy(a) for n, a in saves[last].items()}, path)
    folder.library.add([path], name="twin")
    raw = path.read_bytes()

    done = {d.name: d.stored for d in folder.library.pack().done}
    path.unlink()
    folder.hide()
    folder.library.export("twin", path)

    assert done["twin"] < 5000
    assert path.read_bytes() == raw
    folder.check()


def test_verify_reads_the_whole_way(folder: Folder, saves: list[Arrays]) -> None:
    add(folder, saves[:4])
    folder.library.pack()
    folder.hide()

    report = folder.library.verify()

    assert not [
        one for one in report.to_dict().get("checkpoints", ()) if one.get("state") == "damaged"
    ]
    folder.check()


ODD = st.sampled_from(
    [0, 0x80000000, 1, 0x7F800000, 0xFF800000, 0x7FC00001, 0x7F7FFFFF, 0x00800000, 0x3F800000]
)


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    odd=st.lists(
        st.tuples(st.integers(1, 3), st.integers(0, 8), st.integers(0, 900), ODD), max_size=40
    ),
    lost=st.sets(st.integers(0, 3), max_size=2),
    zero=st.booleans(),
    shuffle=st.booleans(),
)
def test_whatever_stands_in_a_series_comes_back(
    odd: list[tuple[int, int, int, int]],
    lost: set[int],
    zero: bool,
    shuffle: bool,
    saves: list[Arrays],
) -> None:
    found = [{n: a.copy() for n, a in one.items()} for one in saves[:4]]
    for save, tensor, place, bits in odd:
        values = found[save][list(found[save])[tensor % len(found[save])]].reshape(-1).view("u4")
        values[place % values.size :: 97] = bits
    if zero:
        for name in found[2]:
            found[2][name] *= not name.startswith("optimizer.")
    if shuffle:
        found[3] = {n: a[::-1].copy() for n, a in found[3].items()}
    with tempfile.TemporaryDirectory() as root:
        folder = Folder(Path(root))
        for number, arrays in enumerate(found):
            if number not in lost:
                folder.add(f"save-{number}", arrays)
        folder.library.pack()
        folder.hide()
        folder.check()


def document(**change: Any) -> dict[str, Any]:
    found = Document(
        "ab" * 32, Way(), {"w": ("w", "m", "m")}, {"m": "m"}, {"m": "m"}, {"x": "y"}
    ).to_dict()
    return {**found, **change}


def test_a_document_says_what_it_was_made_of() -> None:
    found = Document.from_dict(document())

    assert found.to_dict() == document()
    assert found.names() == {"w", "m" + FIRST, "m" + SECOND, "x"}


@pytest.mark.parametrize(
    "change",
    [
        {"weights": {"w": ["w"]}},
        {"weights": 3},
        {"first": None},
        {"path": {}},
        {"source": None, "path": 1},
    ],
)
def test_a_forged_document_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(CorruptError, match="damaged or forged"):
        Document.from_dict(document(**change))


def test_a_document_of_a_newer_memcard_is_refused() -> None:
    with pytest.raises(UnsupportedError, match="Upgrade"):
        Document.from_dict(document(**{MARK: 2}))


class _Zeros:
    def __init__(self, specs: dict[str, Spec]) -> None:
        self.specs = specs

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        into[:] = bytes(len(into))

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    "wrong",
    [{}, {"w": "F16"}, {"w": "F32"}, {"w": "F32", "m.exp_avg": "F32", "m.exp_avg_sq": "F64"}],
)
def test_tensors_that_do_not_fit_are_refused(wrong: dict[str, str]) -> None:
    sound = {n: Spec(DTYPES["F32"], (3,)) for n in ("w", "m.exp_avg", "m.exp_avg_sq", "x", "y")}
    other = {n: Spec(DTYPES[kind], (3,)) for n, kind in wrong.items()}

    PathCheckpoint(Document.from_dict(document()), _Zeros(sound), _Zeros(sound), sound)
    with pytest.raises(CorruptError, match="damaged or forged"):
        PathCheckpoint(Document.from_dict(document()), _Zeros(other), _Zeros(sound), sound)
    with pytest.raises(CorruptError, match="damaged or forged"):
        PathCheckpoint(Document.from_dict(document()), _Zeros(sound), _Zeros(other), other)


TABLE = (1 + np.arange(1 << 20) % 7).astype("f4")


class _Save:
    """A save whose values are what the way from the one before foretells, a bit changed; kept nowhere."""

    def __init__(self, number: int, size: int) -> None:
        names = ("w", "m.exp_avg", "m.exp_avg_sq")
        self.specs = {n: Spec(DTYPES["F32"], (size,)) for n in names}
        self._number, self.foretold = number, None
        if number:
            way = Way(0.9999, 2, 0.5, 0.9, 1e-3, 1e-3, 1e-3, 0.5)
            found = Document("", way, {"w": ("w", "m", "m")}, {"m": "m"}, {"m": "m"})
            self.foretold = PathCheckpoint(found, _Save(number - 1, size), self, self.specs)

    def readinto(self, name: str, into: memoryview, offset: int = 0) -> None:
        values = np.frombuffer(into, "<f4")
        if self.foretold is None:
            values[:] = TABLE[offset // 4 :][: values.size]
        else:
            self.foretold.readinto(name, into, offset)
        values += np.float32(self._number)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(("name", "most"), [("w", 6), ("m.exp_avg", 10), ("m.exp_avg_sq", 1)])
def test_a_block_of_a_deep_save_takes_few_blocks_of_memory(name: str, most: int) -> None:
    size, block = TABLE.size, TABLE.size // 4
    save, out = _Save(4, size), memoryview(bytearray(4 * block))
    small = memoryview(bytearray(400))
    tracemalloc.start()

    for at in range(0, size, block):
        save.readinto(name, out, 4 * at)

    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < most * len(out)
    save.readinto(name, small, 4 * size - 400)
    assert small == out[-400:]  # pieces of any size give the same


def test_only_the_fitted_tensors_stay_in_memory_while_a_path_is_looked_for(
    folder: Folder, saves: list[Arrays], monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[int] = []
    of = _pack_training._Values.of

    def counted(self: Any, name: str) -> Any:
        found = of(self, name)
        known.append(len(self._known))
        return found

    monkeypatch.setattr(_pack_training, "_FITTED", 1)
    monkeypatch.setattr(_pack_training._Values, "of", counted)
    add(folder, saves[:3])

    folder.library.pack()

    assert known
    assert max(known) <= 6  # a weight and its moments: of the one that is fitted, and of another
    folder.hide()
    folder.check()
