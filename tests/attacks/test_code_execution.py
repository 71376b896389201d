"""What a refusal says about a program, and what is no code although it looks like it."""

from __future__ import annotations

from pathlib import Path

import pytest

from attacks.routes import call
from fixtures.torch_archive import name, text, write_archive
from memcard.errors import UnsafeError
from memcard.formats import open_file


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


SETTINGS = name("transformers.training_args", "TrainingArguments")
INDIRECT = {
    "rebuild_from_type": call(
        name("torch._tensor", "_rebuild_from_type_v2"),
        *(SETTINGS, name("builtins", "int"), text("x") + b"\x85", b"}"),
    ),
    "copyreg": call(name("copyreg", "_reconstructor"), SETTINGS, SETTINGS, text("x")),
    "numpy_generator": call(name("numpy.random._pickle", "__generator_ctor"), text("x"), SETTINGS),
    "numpy_bit_generator": call(name("numpy.random._pickle", "__bit_generator_ctor"), SETTINGS),
    "reduce": call(SETTINGS, text("x")),
    "obj": b"(" + SETTINGS + text("x") + b"o",
    "inst": b"(" + text("x") + b"itransformers.training_args\nTrainingArguments\n",
    "new_class": name("builtins", "type")
    + b"("
    + text("X")
    + name("builtins", "dict")
    + b"\x85}t\x81",
}


@pytest.mark.parametrize("route", INDIRECT)
def test_a_class_that_may_only_be_named_is_not_called(route: str, tmp_path: Path) -> None:
    """Settings objects set up devices when they are made; known functions would call them."""
    program = b"\x80\x02}" + text("x") + INDIRECT[route] + b"s."

    with pytest.raises(UnsafeError):
        open_file(write_archive(tmp_path / "x.ckpt", program))


def test_the_same_class_may_be_named_and_made_bare(tmp_path: Path) -> None:
    bare = SETTINGS + b")\x81}" + text("lr") + b"K\x01sb"
    program = b"\x80\x02}" + text("args") + bare + b"s" + text("kind") + SETTINGS + b"s."

    checkpoint = open_file(write_archive(tmp_path / "x.ckpt", program))

    assert any("TrainingArguments" in note for note in checkpoint.notes)
