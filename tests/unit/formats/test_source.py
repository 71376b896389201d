from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from memcard.errors import CorruptError, IntegrityError, MemcardError, UsageError
from memcard.formats import _file_system
from memcard.formats._source import Source, is_plain_name, mode_for, suffix_note

MODES = pytest.mark.parametrize("mode", ["mmap", "pread"])

MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 22 0:44 / /mnt/share rw - nfs4 server:/share rw
31 22 0:45 / /mnt/two\\040words rw - cifs //server/two rw
32 22 0:46 / /mnt/fuse rw - fuse.sshfs me@there: rw
33 22 0:47 /sub /mnt/fast rw - btrfs /dev/sdb rw
34 30 0:48 / /mnt/share/local rw - tmpfs tmpfs rw
35 22 0:49 / /mnt/new rw - futurefs /dev/sdc rw
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x"
    path.write_bytes(bytes(range(256)) * 64)
    return path


@pytest.fixture
def source(path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setenv("MEMCARD_IO", mode)
    return Source(path)


@MODES
def test_both_modes_show_the_same_bytes(source: Source, mode: str) -> None:
    assert source.mode == mode
    assert source.view(250, 10) == bytes([250, 251, 252, 253, 254, 255, 0, 1, 2, 3])
    assert source.view(250, 10).readonly
    assert source.view(5, 0) == b""
    assert source.bytes(16380, 100) == bytes([252, 253, 254, 255])


@MODES
def test_a_view_outlives_the_source(source: Source) -> None:
    view = source.view(3, 4)

    source.close()

    assert view == bytes([3, 4, 5, 6])


CALLS: dict[str, Callable[[Source], object]] = {
    "view": lambda source: source.view(0, 4),
    "readinto": lambda source: source.readinto(0, memoryview(bytearray(4))),
    "window": lambda source: source.window(0, 4),
}


@MODES
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_closed_source_says_so(source: Source, call: Callable[[Source], object]) -> None:
    source.close()

    with pytest.raises(MemcardError, match="is closed; open it again"):
        call(source)


@MODES
@pytest.mark.parametrize("call", ["view", "readinto"])
def test_a_file_cut_off_meanwhile_is_an_error(source: Source, path: Path, call: str) -> None:
    os.truncate(path, 5000)

    with pytest.raises(CorruptError, match="ends at byte 5000, but was 16384"):
        source.view(8192, 8) if call == "view" else source.readinto(4998, memoryview(bytearray(8)))


@MODES
def test_a_file_written_to_meanwhile_is_noticed(source: Source, path: Path) -> None:
    source.check_unchanged()
    path.write_bytes(b"other")

    with pytest.raises(IntegrityError, match="changed while it was read"):
        source.check_unchanged()


@MODES
def test_an_empty_file_opens(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMCARD_IO", mode)
    (tmp_path / "empty").touch()

    assert Source(tmp_path / "empty").bytes(0, 10) == b""


def test_handles_are_given_back(path: Path) -> None:
    for _ in range(20):
        Source(path).window(100, 50)[0].close()
        Source(path).view(0, 9)
    handles = [h.readlink() for h in Path("/proc/self/fd").iterdir() if h.is_symlink()]

    assert path not in handles


def test_an_unknown_mode_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMCARD_IO", "fast")

    with pytest.raises(UsageError, match="'fast'; it can be mmap or pread"):
        Source(path)


@pytest.mark.parametrize(
    ("folder", "device", "kind"),
    [
        ("/home/me", os.makedev(8, 1), "ext4"),
        ("/anything", os.makedev(0, 44), "nfs4"),  # the device decides
        ("/mnt/share/deep/er", os.makedev(0, 99), "nfs4"),  # else the longest mount above
        ("/mnt/shared", os.makedev(0, 99), "ext4"),  # which is not /mnt/share
        ("/mnt/share/local/x", os.makedev(0, 99), "tmpfs"),
        ("/mnt/two words", os.makedev(0, 99), "cifs"),
        ("/mnt/fuse", os.makedev(0, 46), "fuse.sshfs"),
        ("/mnt/fast", os.makedev(0, 99), "btrfs"),
    ],
)
def test_the_file_system_is_found(
    folder: str, device: int, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(MOUNTS)
    monkeypatch.setattr(_file_system, "_MOUNTS", mounts)

    assert _file_system._type.__wrapped__(folder, device) == kind


@pytest.mark.parametrize(
    ("kind", "mode"), [("ext4", "mmap"), ("nfs4", "pread"), ("futurefs", "pread"), ("", "pread")]
)
def test_only_known_local_disks_are_mapped(
    kind: str, mode: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEMCARD_IO", raising=False)
    monkeypatch.setattr(_file_system, "_type", lambda folder, device: kind)

    assert mode_for(path) == mode


def test_without_a_list_of_mounts_nothing_is_mapped(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEMCARD_IO", raising=False)
    monkeypatch.setattr(_file_system, "_MOUNTS", tmp_path / "none")
    _file_system._type.cache_clear()

    assert mode_for(path) == "pread"


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("x.safetensors", False),
        ("x.SFT", False),
        ("x.ckpt", True),
        ("x.bin", True),
        ("x", False),
        ("x.part", False),
        ("v1.5 pruned", False),  # no suffix, just a point
    ],
)
def test_a_name_of_another_format_is_a_note(name: str, told: bool) -> None:
    assert bool(suffix_note(Path(name), "safetensors", (".safetensors", ".sft"))) is told


def test_bin_is_a_name_of_torch_files() -> None:
    assert suffix_note(Path("pytorch_model.bin"), "a torch file", (".ckpt", ".pt")) == ()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "../x", "a\\b", "C:x", "a\0b", "a\nb", "ü" * 128]
)
def test_names_that_lead_elsewhere_are_not_plain(name: str) -> None:
    assert not is_plain_name(name)
    assert is_plain_name("modèle-00001-of-00002.safetensors")
