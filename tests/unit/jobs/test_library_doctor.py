"""The doctor finds what is wrong, says what depends on it and what to do, and mends only when asked."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest

from fixtures import small
from fixtures.packed_library import PackedLibrary
from memcard.cli.main import main
from memcard.errors import CorruptError, NotFoundError, UnsupportedError
from memcard.jobs import _doctor_place
from memcard.jobs._doctor_place import Finding
from memcard.jobs.doctor import Diagnosis
from memcard.jobs.library import Library
from memcard.store import cards, places, refs
from memcard.store import manifest as manifests
from memcard.store import packed as records
from memcard.store.writer import Writer

PAST = 1_600_000_000_000_000_000


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Library:
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    library = Library()
    path = small.save(tmp_path / "neon.safetensors", small.weights(1), {"modelspec.title": "Neon"})
    os.utime(path, ns=(PAST, PAST))
    library.add([path])
    return library


def files(library: Library) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in library.path.rglob("*") if path.is_file()}


def faults(found: Diagnosis) -> list[Finding]:
    return [one for one in found.findings if one.severity != "note"]


def test_a_sound_library_has_no_faults_and_is_not_written_to(library: Library) -> None:
    before = files(library)

    found = library.doctor()

    assert found.ok
    assert faults(found) == []
    assert found.names == 1
    assert files(library) == before


@pytest.mark.parametrize("damage", ["gone", "damaged"])
def test_a_lost_library_json_is_written_anew(library: Library, damage: str) -> None:
    if damage == "gone":
        library.layout.card.unlink()
    else:
        library.layout.card.write_text("{")
    with pytest.raises((CorruptError, NotFoundError)):
        library.ls()

    found = library.doctor()
    assert not found.ok
    assert faults(found)[0].about == str(library.layout.card)
    assert faults(found)[0].fix

    assert library.doctor(fix=True).ok
    assert [entry.name for entry in library.ls().entries] == ["neon"]
    assert library.doctor().ok


def test_a_newer_library_is_refused(library: Library) -> None:
    library.layout.card.write_text('{"format":"memcard-library","id":"0f","version":3}')
    before = files(library)

    with pytest.raises(UnsupportedError, match="upgrade"):
        library.doctor(fix=True)

    assert files(library) == before


def test_no_library_is_no_patient(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        Library(tmp_path / "nowhere").doctor()
    (tmp_path / "empty").mkdir()
    with pytest.raises(NotFoundError):
        Library(tmp_path / "empty").doctor()


def test_a_lost_manifest_is_made_again_from_the_file(library: Library) -> None:
    path = manifests.path_of(library.layout, library.show("neon").version.manifest)
    raw = path.read_bytes()
    path.unlink()

    found = library.doctor()
    (fault,) = faults(found)
    assert "neon" in fault.text
    assert "neon.safetensors" in fault.fix
    assert not path.exists()

    done = library.doctor(fix=True)

    assert done.ok
    assert path.read_bytes() == raw


def test_a_lost_manifest_without_its_file_is_an_error(library: Library, tmp_path: Path) -> None:
    manifests.path_of(library.layout, library.show("neon").version.manifest).write_text("{")
    (tmp_path / "neon.safetensors").unlink()

    (fault,) = faults(library.doctor(fix=True))

    assert (fault.severity, fault.fix) == ("error", "")
    assert "memcard add" in fault.remedy


def test_a_damaged_name_is_told(library: Library) -> None:
    refs.path_of(library.layout, "neon").write_text("{")

    (fault,) = faults(library.doctor())

    assert "neon.json" in fault.about


def test_a_lost_pack_names_everything_that_needs_it(tmp_path: Path) -> None:
    kept = PackedLibrary(tmp_path)
    record = records.get(kept.library.layout, kept.library.show("base").version.manifest)
    assert record is not None
    pack = next(path for path in kept.packs if path.stem == record.packs[0])
    pack.unlink()
    kept.hide()

    found = faults(kept.library.doctor())

    (missing,) = [one for one in found if one.about == str(pack)]
    assert {"base", "tune"} <= set(missing.text.replace(".", "").replace(",", "").split())
    assert "repair" in missing.remedy
    assert {one.about for one in found} >= {"base", "tune"}


def test_a_damaged_record_and_a_cut_pack_are_told(tmp_path: Path) -> None:
    kept = PackedLibrary(tmp_path)
    path = records.path_of(kept.library.layout, kept.library.show("mix").version.manifest)
    path.write_text("{")
    kept.packs[0].write_bytes(kept.packs[0].read_bytes()[:-9])

    about = {one.about for one in faults(kept.library.doctor())}

    assert {str(path), str(kept.packs[0])} <= about


def test_files_that_are_gone_or_changed(library: Library, tmp_path: Path) -> None:
    library.add([small.save(tmp_path / "second.safetensors", small.weights(2))])
    neon = tmp_path / "neon.safetensors"
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(neon.read_bytes())
    library.add([copy])
    os.utime(neon, ns=(PAST, PAST + 5))
    (tmp_path / "second.safetensors").unlink()

    found = {one.about: one for one in faults(library.doctor())}

    assert found[str(neon)].severity == "warning"
    assert found["second"].severity == "error"

    neon.unlink()
    library.doctor(fix=True)
    known = places.get(library.layout, library.show("neon").version.sha256)
    assert known is not None
    assert [place.path for place in known.places] == [copy]


def test_damaged_small_records_are_told(library: Library) -> None:
    sha256 = library.show("neon").version.sha256
    skeleton = library.show("neon").manifest.files[0].skeleton
    entry = library.rm("neon", dry_run=True)
    assert entry.entry is None
    broken = [
        cards.path_of(library.layout, sha256),
        library.layout.adopted(sha256),
        library.layout.skeleton(skeleton.blake3),
    ]
    for path in broken:
        path.write_text("{")
    library.layout.trash.joinpath("20260101T000000-000001").mkdir(parents=True)
    library.layout.trash.joinpath("20260101T000000-000001", "journal.json").write_text("{")

    about = {one.about for one in faults(library.doctor())}

    assert about >= {*map(str, broken), str(library.layout.trash)}


def test_a_living_writer_and_litter_are_notes(library: Library) -> None:
    (library.layout.leases / ("0" * 16)).touch()
    (library.layout.tmp / f"{'0' * 16}-1").write_bytes(b"half")
    with Writer(library.layout):
        (library.layout.leases / ("0" * 16)).touch()
        (library.layout.tmp / f"{'0' * 16}-1").write_bytes(b"half")

        found = library.doctor()

    assert found.ok
    texts = " ".join(one.text for one in found.findings)
    assert "1 other memcard is writing" in texts
    assert "2 unfinished files" in texts
    assert any(one.fixed for one in library.doctor(fix=True).findings)
    assert not any("unfinished" in one.text for one in library.doctor().findings)


def test_a_full_disk_and_a_network_share_are_warnings(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = _doctor_place.shutil.disk_usage(library.path)
    monkeypatch.setattr(_doctor_place.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    monkeypatch.setattr(_doctor_place, "_file_system", lambda folder: "nfs4")
    monkeypatch.setattr(_doctor_place, "_knows_locks", lambda home: False)

    texts = " ".join(one.text for one in faults(library.doctor()))

    assert "0 MB left" in texts
    assert "network share (nfs4)" in texts
    assert "knows no locks" in texts


def test_the_kind_of_a_file_system_is_known() -> None:
    if Path("/proc/mounts").exists():
        assert _doctor_place._file_system(Path("/proc/self")) == "proc"


def test_a_read_only_library_stays_readable(library: Library, tmp_path: Path, monkeypatch) -> None:
    neon = tmp_path / "neon.safetensors"
    for folder, _, names in os.walk(library.path):
        for name in names:
            Path(folder, name).chmod(0o444)
        Path(folder).chmod(0o555)
    monkeypatch.setattr(
        _doctor_place, "_can_write", lambda folder: False
    )  # root may write anywhere
    before = files(library)
    try:
        assert [entry.name for entry in library.ls().entries] == ["neon"]
        assert library.show("neon").copies[0].path == neon
        assert library.verify().ok
        assert library.export("neon", tmp_path / "out.safetensors").size == neon.stat().st_size
        found = library.doctor()
        assert found.ok
        assert any("read-only" in one.text for one in found.findings)
        assert files(library) == before
    finally:
        for folder, _, _ in os.walk(library.path):
            Path(folder).chmod(stat.S_IRWXU)


def test_the_index_is_looked_at(
    library: Library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert any("switched off" in one.text for one in library.doctor().findings)
    monkeypatch.setenv("MEMCARD_CACHE", str(tmp_path / "cache"))
    assert any("built anew" in one.text for one in library.doctor().findings)
    assert library.doctor().findings == ()
    next((tmp_path / "cache").glob("index-*.sqlite")).write_bytes(b"no index")
    assert library.doctor(fix=True).findings == ()


def test_the_command_says_it_and_ends_with_1(
    library: Library, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor"]) == 0
    assert "nothing is wrong" in capsys.readouterr().out
    manifests.path_of(library.layout, library.show("neon").version.manifest).unlink()

    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "error: " in out
    assert "memcard doctor --fix writes it anew" in out
    assert main(["doctor", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["severity"] == "error"
    assert main(["doctor", "--fix"]) == 0
    assert "mended: " in capsys.readouterr().out
