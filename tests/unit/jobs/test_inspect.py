from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from fixtures.torch_archive import ONE, ONE_DATA, write_archive
from memcard.core.progress import Event, Progress
from memcard.core.report import Report
from memcard.core.tensors import DTYPES, Spec
from memcard.errors import NotFoundError
from memcard.formats import format_for_suffix
from memcard.jobs.inspect import inspect, inspect_all

HEADER = b'{"w":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}'
SAFETENSORS = len(HEADER).to_bytes(8, "little") + HEADER + b"abcd"


def test_a_good_file_is_ok_and_all_facts_are_json(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(SAFETENSORS)

    report = inspect(path, digests=True)

    sha = hashlib.sha256(SAFETENSORS).hexdigest()
    assert (report.verdict, report.format, report.exit_code) == ("ok", "safetensors", 0)
    assert report.tensors == {"w": Spec(DTYPES["F16"], (2,))}
    tail = hashlib.sha256(b"abcd").hexdigest()
    found = [report.digests[name] for name in ("sha256", "autov2", "autov3")]
    assert found == [sha, sha[:10], tail[:12]]
    facts = json.loads(json.dumps(report.to_dict()))
    assert (facts["size"], facts["parameters"], facts["dtypes"]) == (66, 2, {"F16": 4})
    assert "named" not in facts["findings"]
    assert "read by content" in facts["findings"][0]


@pytest.mark.parametrize(
    ("raw", "verdict", "code"),
    [
        (b"\x80\x02cos\nsystem\n(X\4\0\0\0exittR.", "unsafe", 3),
        (b"\x80\x02}.cut", "corrupt", 4),
    ],
)
def test_a_bad_program_is_a_verdict(raw: bytes, verdict: str, code: int, tmp_path: Path) -> None:
    report = inspect(write_archive(tmp_path / "x.ckpt", raw), digests=True)

    assert (report.verdict, report.format, report.exit_code) == (verdict, "torch_zip", code)
    assert report.findings
    assert report.tensors == {}
    assert {"sha256", "autov2"} <= set(report.digests)
    assert "autov3" not in report.digests


def test_other_files_are_unsupported_and_a_folder_too(tmp_path: Path) -> None:
    (tmp_path / "page.ckpt").write_bytes(b"<html>please log in")

    assert inspect(tmp_path / "page.ckpt").verdict == "unsupported"
    assert inspect(tmp_path).verdict == "unsupported"
    assert inspect(tmp_path).format is None
    assert inspect(tmp_path, digests=True).digests == {}


def test_a_missing_file_is_the_callers_fault(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"none\.ckpt"):
        inspect(tmp_path / "none.ckpt")


def test_notes_of_the_reader_are_findings(tmp_path: Path) -> None:
    report = inspect(write_archive(tmp_path / "x.safetensors", ONE, ONE_DATA))

    assert report.verdict == "ok"
    assert report.faults == ()
    assert "read by content" in report.findings[0]


def test_family_components_and_evidence(tmp_path: Path) -> None:
    from fixtures.sd15 import TINY, shapes

    specs = {key: Spec(DTYPES["F16"], shape) for key, shape in shapes(TINY).items()}
    path = tmp_path / "sd.safetensors"
    with format_for_suffix(path).create(path) as sink:
        sink.begin(specs, {})
        for key, spec in specs.items():
            sink.write(key, memoryview(bytes(spec.nbytes)))

    report = inspect(path)

    assert report.architecture == "sd1"
    assert report.evidence
    assert set(report.components) == {"unet", "vae", "text_encoder"}
    assert sum(part.parameters for part in report.components.values()) <= report.parameters


def write(folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(SAFETENSORS)
    return [folder / name for name in names]


@pytest.mark.parametrize("threads", [1, 4])
def test_folders_are_looked_through_in_order_and_progress_counts_files(
    threads: int, tmp_path: Path
) -> None:
    paths = write(tmp_path, "a.safetensors", "b/c.ckpt", "d.pt")
    write(tmp_path, "readme.txt")
    heard: list[Event] = []

    reports = inspect_all([tmp_path], threads=threads, progress=heard.append)

    assert [report.path for report in reports] == paths
    assert Progress("inspect", 3, 3, "files") in heard
    assert len(heard) == 3


def test_an_unreadable_file_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed, fine = write(tmp_path, "a.safetensors", "b.safetensors")

    def refuses(file: Path, *args: object, **kwargs: object) -> Report:
        if file == closed:
            raise PermissionError(13, "Permission denied")
        return inspect(file)

    monkeypatch.setattr("memcard.jobs.inspect.inspect", refuses)

    reports = inspect_all([tmp_path])

    assert [r.verdict for r in reports] == ["unsupported", "ok"]
    assert "Permission denied" in reports[0].faults[0]
    assert reports[1].path == fine


def test_what_can_be_salvaged_is_listed_and_the_verdict_stays(tmp_path: Path) -> None:
    path = write_archive(
        tmp_path / "x.ckpt", b"\x80\x02cos\nsystem\n(X\4\0\0\0exittR0" + ONE[2:], ONE_DATA
    )

    assert inspect(path).tensors == {}
    report = inspect(path, salvage=True)

    assert (report.verdict, report.exit_code) == ("unsafe", 3)
    assert any("os.system" in fault for fault in report.faults)
    assert report.tensors == inspect(write_archive(tmp_path / "y.ckpt", ONE, ONE_DATA)).tensors


def test_a_delta_says_so_and_names_its_base() -> None:
    report = inspect("starter/neon")

    assert report.kind == "delta"
    assert "SHA-256 " in report.identity.missing[0]
    assert len(report.identity.missing[0].split()[-1]) == 64


def test_of_several_files_each_has_its_sha256(tmp_path: Path) -> None:
    import memcard

    index = tmp_path / "m.safetensors.index.json"
    memcard.convert("starter", index, max_shard="8MB")

    report = inspect(index, digests=True)

    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) == 2
    assert report.verdict == "ok"
    assert report.size == sum(file.stat().st_size for file in (index, *shards))
    found = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in (index, *shards)}
    assert report.digests == found


def test_a_gguf_has_no_safetensors_digest(tmp_path: Path) -> None:
    from fixtures import gguf_bytes

    path = tmp_path / "x.gguf"
    path.write_bytes(gguf_bytes.gguf())

    assert "autov3" not in inspect(path, digests=True).digests
