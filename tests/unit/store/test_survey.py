from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from memcard.core import digest
from memcard.errors import CorruptError, IntegrityError, NotFoundError
from memcard.store import layout, survey
from memcard.store.layout import Layout
from memcard.store.manifest import Skeleton
from memcard.store.writer import Writer

BIG = digest.CHUNK * 2 + 12_345


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("survey") / "big"
    path.write_bytes(bytes(i * i % 251 for i in range(1000)) * (BIG // 1000) + bytes(BIG % 1000))
    return path


@settings(max_examples=30)
@given(cuts=st.lists(st.integers(0, BIG), min_size=2, max_size=12), skip=st.integers(0, 1))
def test_runs_and_rest_are_hashed_wherever_the_chunks_end(
    big: Path, cuts: list[int], skip: int
) -> None:
    raw, cuts = big.read_bytes(), sorted(cuts)
    runs = survey.disjoint(
        [(a, b - a) for a, b in zip(cuts[skip::2], cuts[skip + 1 :: 2], strict=False)]
    )

    found = survey.survey(big, runs)

    assert found.digests["sha256"] == hashlib.sha256(raw).hexdigest()
    assert found.digests["blake3"] == blake3(raw).hexdigest()
    assert found.runs == {(at, n): blake3(raw[at : at + n]).hexdigest() for at, n in runs}
    rest, at = b"", 0
    for start, size in runs:
        rest, at = rest + raw[at:start], start + size
    assert found.bones == rest + raw[at:]
    assert found.skeleton == Skeleton(
        blake3(found.bones).hexdigest(), len(found.bones), stored=True
    )


def test_overlapping_and_empty_runs_are_left_out() -> None:
    assert survey.disjoint([(10, 5), (12, 2), (10, 5), (15, 1), (0, 0)]) == ((10, 5), (15, 1))


def test_a_run_behind_the_end_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"12345")

    with pytest.raises(CorruptError, match="behind the end"):
        survey.survey(path, [(3, 4)])


def test_the_tensors_digest_of_autov3_begins_behind_the_header(big: Path) -> None:
    found = survey.survey(big, (), data_offset=digest.CHUNK + 7)

    raw = big.read_bytes()[digest.CHUNK + 7 :]
    assert found.digests["tensors_sha256"] == hashlib.sha256(raw).hexdigest()


def test_bones_beyond_the_limit_are_hashed_and_not_kept(
    big: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "MOST_SKELETON", 1000)

    found = survey.survey(big, ())

    assert found.bones is None
    assert found.skeleton == Skeleton(found.digests["blake3"], BIG, stored=False)


def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(bytes(digest.CHUNK * 2))

    def meddle(event: object) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    with pytest.raises(IntegrityError, match="changed while it was read"):
        survey.survey(path, (), progress=meddle)


def test_bones_come_back_and_damage_is_noticed(tmp_path: Path) -> None:
    home, bones = Layout(tmp_path / "home"), b"header" * 100
    layout.create(home)
    skeleton = Skeleton(blake3(bones).hexdigest(), len(bones), stored=True)
    with Writer(home) as writer:
        survey.put_bones(writer, skeleton, bones)
    path = home.skeleton(skeleton.blake3)
    packed = path.read_bytes()

    assert survey.get_bones(home, skeleton) == bones
    for i in range(len(packed)):
        path.write_bytes(packed[:i] + bytes([packed[i] ^ 1]) + packed[i + 1 :])
        with pytest.raises((CorruptError, IntegrityError)):
            survey.get_bones(home, skeleton)
    path.unlink()
    with pytest.raises(NotFoundError):
        survey.get_bones(home, skeleton)
