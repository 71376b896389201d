from __future__ import annotations

import hashlib
import os
import tracemalloc
import zlib
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from memcard.core import digest
from memcard.core.digest import CHUNK, NAMES, RING, digests_file, sha256_file
from memcard.core.progress import Event, Progress
from memcard.errors import IntegrityError

MIB = 1 << 20
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def plain(raw: bytes, offset: int | None) -> dict[str, str]:
    """The definitions, one line each."""
    sha, tail = hashlib.sha256(raw).hexdigest(), hashlib.sha256(raw[offset:]).hexdigest()
    found = {
        "sha256": sha,
        "autov1": hashlib.sha256(raw[0x100000 : 0x100000 + 0x10000]).hexdigest()[:8],
        "autov2": sha[:10],
        "autov3": tail[:12],
        "tensors_sha256": tail,
        "blake3": blake3(raw).hexdigest(),
        "crc32": f"{zlib.crc32(raw):08x}",
    }
    if offset is None:
        del found["autov3"], found["tensors_sha256"]
    return found


@pytest.mark.parametrize(
    ("size", "offset"),
    [
        (0, None),
        (1, 1),
        (66, 54),
        (MIB, 8),
        (MIB + 1, 9),
        (MIB + 65_536, None),
        (CHUNK - 1, 100),
        (CHUNK, CHUNK),
        (CHUNK + 1, CHUNK - 1),
        (3 * CHUNK, 2 * CHUNK + 5),
        ((RING + 3) * CHUNK + 17, 104),
        ((RING + 3) * CHUNK + 17, None),
    ],
)
def test_all_digests_are_what_their_definitions_say(
    size: int, offset: int | None, tmp_path: Path
) -> None:
    path = tmp_path / "x.bin"
    raw = os.urandom(size)
    path.write_bytes(raw)

    found = digests_file(path, data_offset=offset)

    assert found == plain(raw, offset)
    assert list(found) == [name for name in NAMES if name in found]


@given(raw=st.binary(max_size=300), offset=st.none() | st.integers(0, 300))
def test_small_files_of_any_content(
    raw: bytes, offset: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("small") / "x.bin"
    path.write_bytes(raw)

    assert digests_file(path, data_offset=offset) == plain(raw, offset)


def test_known_vectors(tmp_path: Path) -> None:
    path = tmp_path / "abc.bin"
    path.write_bytes(b"abc")

    found = digests_file(path, data_offset=3)

    # FIPS 180-2, appendix B.1; the BLAKE3 reference implementation; CRC-32/ISO-HDLC
    assert found["sha256"] == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert found["blake3"] == "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85"
    assert found["crc32"] == "352441c2"
    assert found["tensors_sha256"] == EMPTY
    assert (found["autov1"], found["autov3"]) == ("e3b0c442", "e3b0c44298fc")


def test_a_model_hash_as_kohya_writes_it(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "lora.safetensors"
    save_file({"a": torch.arange(7), "b": torch.ones(3)}, path, {"ss_note": "x"})
    raw = path.read_bytes()
    header = int.from_bytes(raw[:8], "little")

    found = digests_file(path, data_offset=8 + header)

    assert found["tensors_sha256"] == hashlib.sha256(raw[8 + header :]).hexdigest()
    assert found["autov3"] == found["tensors_sha256"][:12]


def test_only_what_is_asked_for_is_computed(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(raw := os.urandom(2 * CHUNK + 1))
    every = plain(raw, 9)

    assert digests_file(path, data_offset=9, only=("autov2",)) == {"autov2": every["autov2"]}
    assert digests_file(path, data_offset=9, only=("autov1",)) == {"autov1": every["autov1"]}
    assert digests_file(path, only=("crc32", "sha256")) == {
        "sha256": every["sha256"],
        "crc32": every["crc32"],
    }
    assert digests_file(path, only=("autov3",)) == {}


def test_sha256_of_a_file_larger_than_one_chunk(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(os_bytes := bytes(range(256)) * (digest.CHUNK // 256) + b"tail")
    seen: list[Event] = []

    found = digest.sha256_file(path, seen.append)

    assert found == hashlib.sha256(os_bytes).hexdigest()
    assert seen[-1] == Progress("sha256", len(os_bytes), len(os_bytes))


def test_progress_grows_to_the_size(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(bytes(20 * CHUNK + 3))
    seen: list[int] = []

    def hear(event: Event) -> None:
        assert isinstance(event, Progress)
        assert (event.phase, event.total) == ("digests", 20 * CHUNK + 3)
        seen.append(event.done)

    digests_file(path, data_offset=8, progress=hear)

    assert seen == sorted(seen)
    assert seen[-1] == 20 * CHUNK + 3


def test_a_file_that_is_written_to_meanwhile_has_no_digest(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(bytes(3 * CHUNK))

    def grow(_: Event) -> None:
        with path.open("ab") as file:
            file.write(b"more")

    with pytest.raises(IntegrityError, match=r"x\.bin: changed while it was read"):
        digests_file(path, progress=grow)


def test_a_device_without_an_end_is_refused() -> None:
    with pytest.raises(IntegrityError, match="zero"):
        digests_file(Path("/dev/zero"))


def test_a_file_that_is_replaced_meanwhile_has_no_digest(tmp_path: Path) -> None:
    path, other = tmp_path / "x.bin", tmp_path / "y.bin"
    path.write_bytes(bytes(100))
    other.write_bytes(bytes(100))

    with pytest.raises(IntegrityError, match=r"x\.bin"):
        sha256_file(path, lambda _: other.replace(path) if other.exists() else None)


def test_an_error_of_a_thread_and_of_the_listener_reach_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(bytes(4 * CHUNK))

    def stop(_: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        digests_file(path, progress=stop)

    def broken(self: object, part: memoryview) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(digest._Crc32, "update", broken)
    with pytest.raises(OSError, match="Input/output"):
        digests_file(path)


def test_memory_stays_bounded(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    with path.open("wb") as file:
        file.truncate(200 * MIB)

    tracemalloc.start()
    digests_file(path, data_offset=8)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 32 * MIB
