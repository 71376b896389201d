"""No route into a torch file makes memcard run anything; each is shown to fire elsewhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from attacks.routes import CONTAINERS, PROGRAMS
from fixtures.torch_archive import ONE_DATA, write_archive
from memcard.errors import CorruptError, UnsafeError
from memcard.formats import open_file
from memcard.jobs.inspect import inspect

CARELESS = Path(__file__).with_name("careless.py")


def careless(reader: str, *files: Path) -> str:
    done = subprocess.run(
        [sys.executable, str(CARELESS), reader, *map(str, files)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stderr


def forge(folder: Path, route: str) -> tuple[Path, Path]:
    marker = folder / f"{route}.fired"
    program = b"\x80\x02" + PROGRAMS[route](str(marker)) + b"."
    return write_archive(folder / f"{route}.ckpt", program, ONE_DATA), marker


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> tuple[frozenset[str], str]:
    folder = tmp_path_factory.mktemp("live")
    forged = {route: forge(folder, route) for route in PROGRAMS}
    errors = careless("zipfile", *(file for file, _ in forged.values()))
    return frozenset(r for r, (_, marker) in forged.items() if marker.exists()), errors


@pytest.mark.parametrize("route", PROGRAMS)
def test_the_payload_is_live_and_memcard_refuses_it(
    route: str, live: tuple[frozenset[str], str], tmp_path: Path
) -> None:
    fired, errors = live
    assert route in fired, errors
    file, marker = forge(tmp_path, route)

    with pytest.raises(UnsafeError) as caught:
        open_file(file)

    assert not marker.exists()
    assert str(file) in str(caught.value)
    assert any(" at byte " in fault for fault in caught.value.faults)
    assert inspect(file).verdict == "unsafe"
    assert not marker.exists()


@pytest.mark.parametrize("route", CONTAINERS)
def test_the_container_trick_is_live_and_memcard_refuses_it(route: str, tmp_path: Path) -> None:
    reader, make = CONTAINERS[route]
    marker, file = tmp_path / "fired", tmp_path / f"{route}.ckpt"
    file.write_bytes(make(str(marker)))
    errors = careless(reader, file)
    assert marker.exists(), errors
    marker.unlink()

    with pytest.raises(CorruptError):
        open_file(file)

    assert not marker.exists()


def test_every_bad_name_is_reported_with_its_place(tmp_path: Path) -> None:
    program = b"\x80\x02cos\nsystem\n0cbuiltins\neval\n0cmy.module\nThing\n."

    with pytest.raises(UnsafeError) as caught:
        open_file(write_archive(tmp_path / "x.ckpt", program))

    assert caught.value.faults == (
        "os.system at byte 2",
        "builtins.eval at byte 14",
        "my.module.Thing at byte 30",
    )


def test_unsafe_wins_over_corrupt(tmp_path: Path) -> None:
    program = b"\x80\x02cos\nsystem\n(X\xff\xff\xff\xff"

    with pytest.raises(UnsafeError, match=r"os\.system.*claims 4294967295 bytes"):
        open_file(write_archive(tmp_path / "x.ckpt", program))


def test_a_string_that_names_code_stays_a_string(tmp_path: Path) -> None:
    """Lightning imports the module a plain string ``_instantiator`` names (lightning #21822)."""
    program = b"\x80\x02}(X\x05\x00\x00\x00epochK\x03X\x10\x00\x00\x00hyper_parameters}X\x0d\x00\x00\x00_instantiatorX\x09\x00\x00\x00os.systemsu."  # fmt: skip

    checkpoint = open_file(write_archive(tmp_path / "x.ckpt", program))

    assert checkpoint.metadata == {"epoch": "3"}
