from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from fixtures.torch_archive import ONE, ONE_DATA, write_archive
from memcard.core.tensors import DTYPES, Spec
from memcard.errors import NotFoundError
from memcard.formats import format_for_suffix
from memcard.jobs.inspect import inspect

HEADER = b'{"w":{"dtype":"F16","shape":[2],"data_offsets":[0,4]}}'
SAFETENSORS = len(HEADER).to_bytes(8, "little") + HEADER + b"abcd"


def test_a_good_file_is_ok_and_all_facts_are_json(tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(SAFETENSORS)

    report = inspect(path, digests=True)

    sha = hashlib.sha256(SAFETENSORS).hexdigest()
    assert (report.verdict, report.format, report.exit_code) == ("ok", "safetensors", 0)
    assert report.tensors == {"w": Spec(DTYPES["F16"], (2,))}
    assert report.digests == {
        "sha256": sha,
        "autov2": sha[:10],
        "autov3": hashlib.sha256(b"abcd").hexdigest()[:12],
    }
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
    assert set(report.digests) == {"sha256", "autov2"}


def test_other_files_are_unsupported_and_a_folder_too(tmp_path: Path) -> None:
    (tmp_path / "page.ckpt").write_bytes(b"<html>please log in")

    assert inspect(tmp_path / "page.ckpt").verdict == "unsupported"
    assert inspect(tmp_path).verdict == "unsupported"
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
    assert sum(report.components.values()) <= report.parameters
