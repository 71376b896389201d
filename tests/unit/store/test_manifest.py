from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from memcard.core.tensors import DTYPES, Spec
from memcard.errors import CorruptError, IntegrityError, NotFoundError, UnsupportedError
from memcard.store import _manifest_short, layout, manifest
from memcard.store._manifest_short import shortened
from memcard.store.canonical import sealed, to_bytes
from memcard.store.layout import Layout
from memcard.store.manifest import File, Manifest, Skeleton, Tensor, folder_digest
from memcard.store.writer import Writer

A, B = "a" * 64, "b" * 64
BONES = Skeleton(B, 96, stored=True)
SMALL = Manifest(
    {"sha256": A, "blake3": B},
    "safetensors",
    (File("", A, 4096, BONES),),
    {
        "z": Tensor(Spec(DTYPES["F16"], (500, 4)), 0, 96, B),
        "a ü": Tensor(Spec(DTYPES["F32"], ()), 0, None, None),
    },
    metadata={"modelspec.title": "Neon"},
    architecture="sd1",
    notes=("Take care.",),
)


@pytest.fixture
def home(tmp_path: Path) -> Layout:
    found = Layout(tmp_path / "home")
    layout.create(found)
    return found


def changed(**keys: object) -> bytes:
    return json.dumps(json.loads(SMALL.to_bytes()) | keys).encode()


def test_a_manifest_comes_back_with_the_order_of_its_tensors(home: Layout) -> None:
    with Writer(home) as writer:
        name = manifest.put(writer, SMALL)

    found = manifest.get(home, name)

    assert found == SMALL
    assert list(found.tensors) == ["z", "a ü"]
    assert (found.sha256, found.size, found.is_folder) == (A, 4096, False)


def test_the_same_facts_have_the_same_id_and_are_written_once(home: Layout) -> None:
    with Writer(home) as writer:
        first = manifest.put(writer, SMALL)
        before = manifest.path_of(home, first).stat().st_mtime_ns
        second = manifest.put(writer, replace(SMALL, metadata={"modelspec.title": "Neon"}))

    assert first == second
    assert manifest.path_of(home, first).stat().st_mtime_ns == before


def test_one_wrong_byte_is_refused_and_adding_again_repairs_it(home: Layout) -> None:
    with Writer(home) as writer:
        name = manifest.put(writer, SMALL)
        path = manifest.path_of(home, name)
        raw = bytearray(path.read_bytes())
        raw[len(raw) // 2] ^= 4
        path.write_bytes(raw)
        with pytest.raises(CorruptError, match="Add the checkpoint again"):
            manifest.get(home, name)

        manifest.put(writer, SMALL)

    assert manifest.get(home, name) == SMALL


@pytest.mark.parametrize("short", [True, False])
def test_a_manifest_under_another_id_is_refused(short: bool, home: Layout) -> None:
    other = replace(SMALL, metadata={"modelspec.title": "Noon"})
    with Writer(home) as writer:
        name = manifest.put(writer, SMALL)
        raw = shortened(other.head(), [manifest._row(*one) for one in other.tensors.items()])
        target = home.short_manifest(name) if short else home.manifest(name)
        home.short_manifest(name).unlink()
        target.write_bytes((raw or b"") if short else other.to_bytes())

        with pytest.raises(IntegrityError, match="other bytes than were stored"):
            manifest.get(home, name)


def test_a_missing_manifest_is_not_found(home: Layout) -> None:
    with pytest.raises(NotFoundError, match="Add the file again"):
        manifest.get(home, A)


def test_a_newer_manifest_is_refused_with_the_remedy() -> None:
    with pytest.raises(UnsupportedError, match="pip install --upgrade"):
        manifest.parse(changed(manifest=2), Path("m.json"))


def test_a_dtype_of_the_future_is_unsupported() -> None:
    tensor = {"name": "w", "dtype": "F3", "shape": [], "file": 0, "at": 0, "blake3": None}

    with pytest.raises(UnsupportedError, match="F3"):
        manifest.parse(changed(tensors=[tensor]), Path("m.json"))


TENSOR = {"name": "w", "dtype": "F16", "shape": [2], "file": 0, "at": 0, "blake3": B}


@pytest.mark.parametrize(
    "keys",
    [
        {"digests": {}},
        {"digests": {"sha256": 3}},
        {"files": []},
        {"files": "no"},
        {"tensors": [TENSOR, TENSOR]},
        {"tensors": [TENSOR | {"at": 4095}]},
        {"tensors": [TENSOR | {"file": 1}]},
        {"tensors": [TENSOR | {"at": -1}]},
        {"tensors": [TENSOR | {"shape": [-1]}]},
        {"tensors": [TENSOR | {"shape": [True]}]},
        {"tensors": [TENSOR | {"blake3": "xyz"}]},
        {"tensors": ["w"]},
        {"metadata": {"a": 1}},
        {"notes": [1]},
        {"format": None},
    ],
)
def test_what_the_specification_forbids_is_corrupt(keys: dict[str, object]) -> None:
    with pytest.raises(CorruptError, match=r"m\.json"):
        manifest.parse(changed(**keys), Path("m.json"))


@pytest.mark.parametrize("name", ["../x", "/x", "a/../b", "a\\b", "C:x", "a//b", "./a", "a\0"])
def test_a_file_name_cannot_lead_out_of_its_folder(name: str) -> None:
    file = json.loads(SMALL.to_bytes())["files"][0] | {"name": name}

    with pytest.raises(CorruptError, match="leads out of its folder"):
        manifest.parse(changed(files=[file]), Path("m.json"))


@pytest.mark.parametrize("raw", [b"", b"[]", b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_object_is_corrupt(raw: bytes) -> None:
    with pytest.raises(CorruptError, match=r"m\.json"):
        manifest.parse(raw, Path("m.json"))


def test_keys_of_the_future_are_ignored() -> None:
    assert manifest.parse(changed(more=[1]), Path("m.json")) == SMALL


def test_the_digest_of_several_files_tells_order_names_and_sizes() -> None:
    one, two = File("a", A, 1, BONES), File("b", B, 2, BONES)

    found = {
        folder_digest(files)
        for files in [(one, two), (two, one), (one,), (replace(one, name="c"), two)]
    }

    assert len(found) == 4


def test_the_first_form_is_read_and_not_written_again(home: Layout) -> None:
    with Writer(home) as writer:
        name = manifest.put(writer, SMALL)
        writer.keep(home.manifest(name), SMALL.to_bytes())
        home.short_manifest(name).unlink()

        assert manifest.put(writer, SMALL) == name

    assert manifest.path_of(home, name) == home.manifest(name)
    assert manifest.get(home, name) == SMALL
    assert list(manifest.every(home)) == [name]


def test_a_library_of_the_first_version_is_raised_before_it_gets_the_short_form(
    home: Layout,
) -> None:
    card = json.loads(home.card.read_bytes())
    home.card.write_bytes(sealed(card | {"version": 1}))

    with Writer(home) as writer:
        name = manifest.put(writer, SMALL)

    found = json.loads(home.card.read_bytes())
    assert (found["version"], found["id"]) == (2, card["id"])
    assert manifest.path_of(home, name) == home.short_manifest(name)


def test_a_manifest_too_large_for_the_short_form_is_kept_as_it_is(
    home: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_manifest_short, "MOST", 100)

    with Writer(home) as writer:
        name = manifest.put(writer, SMALL)

    assert manifest.path_of(home, name) == home.manifest(name)
    assert manifest.get(home, name) == SMALL


@pytest.mark.parametrize("short", [True, False])
def test_the_outline_is_everything_but_the_tensors(short: bool, home: Layout) -> None:
    with Writer(home) as writer:
        name = manifest.put(writer, SMALL)
        if not short:
            writer.keep(home.manifest(name), SMALL.to_bytes())
            home.short_manifest(name).unlink()

    assert manifest.outline(home, name) == SMALL.head()


def test_the_fast_canonical_json_is_that_of_the_slow_way() -> None:
    found = json.loads(SMALL.to_bytes())
    head = {key: value for key, value in found.items() if key != "tensors"} | {"zone": "\u00fc"}

    assert to_bytes(found) == SMALL.to_bytes()
    assert manifest._canonical(head, SMALL.tensors) == to_bytes(
        {**head, "tensors": found["tensors"]}
    )
