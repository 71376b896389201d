"""Names and texts of a stranger's file do not command the terminal they are shown on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from attacks.polyglots import diffusers
from fixtures.gguf_bytes import F32, FOUR, Info, Writer, gguf
from fixtures.safetensors_bytes import DATA, ONE_SAFE, entry, safetensors
from fixtures.torch_archive import ONE, ONE_DATA, name, pack, stack_name, state_dict, tensor, text
from fixtures.zip_bytes import Entry, zipped
from memcard.cli.main import main

# Title of the window, clear the screen, the other direction, a line no one sees, an 8-bit command.
EVIL = "\x1b]0;owned\x07\x1b[2J\u202e\u2028\x85\x9b31m"
ODD = set(EVIL) - set("]0;owned[2J31m")
_w = Writer()


def archive(program: bytes, **more: str) -> bytes:
    members = [("archive/data.pkl", program), ("archive/data/0", ONE_DATA["0"])]
    return pack(members + [(f"archive/{n}", v.encode()) for n, v in more.items()])


FILES: dict[str, Callable[[], bytes]] = {
    "metadata.safetensors": lambda: safetensors(
        {"__metadata__": {"modelspec.title": EVIL, "ss_network_dim": EVIL, EVIL: EVIL}, EVIL: entry()}, DATA
    ),
    "dtype.safetensors": lambda: safetensors({EVIL: entry() | {"dtype": EVIL}}, DATA),
    "shape.safetensors": lambda: safetensors({EVIL: entry() | {"shape": [EVIL]}}, DATA),
    "global.ckpt": lambda: archive(b"\x80\x02" + stack_name("os" + EVIL, EVIL) + b")R."),
    "names.ckpt": lambda: archive(state_dict({EVIL: tensor("0", [4], [1]), "v" + EVIL: tensor("0", [4], [1])})),
    "storage.ckpt": lambda: archive(state_dict({"w": tensor(EVIL, [4], [1])})),
    "byteorder.ckpt": lambda: archive(ONE, byteorder=EVIL),
    "values.ckpt": lambda: archive(b"\x80\x02}" + text("epoch" + EVIL) + text(EVIL) + b"s" + text(EVIL) + b"]s."),
    "inert.ckpt": lambda: archive(b"\x80\x02}" + name("argparse", "Namespace") + text(EVIL) + b"s."),
    "member.ckpt": lambda: zipped([Entry(b"archive/data.pkl", ONE), Entry(("archive/" + EVIL).encode(), b"x")]),
    "outside.ckpt": lambda: zipped([Entry(b"archive/data.pkl", ONE), Entry((EVIL + "/x").encode(), b"x")]),
    "keys.gguf": lambda: gguf([Info(EVIL.encode(), [4], F32, FOUR)], [_w.text("general.name", EVIL), _w.text(EVIL, EVIL)]),
    "twice.gguf": lambda: gguf([Info(EVIL.encode(), [4], F32, FOUR)] * 2, [_w.text(EVIL, EVIL)] * 2),
    "x.safetensors.index.json": lambda: json.dumps({"weight_map": {EVIL: EVIL + ".safetensors"}}).encode(),
    f"name{EVIL}.safetensors": lambda: ONE_SAFE,
    "unknown.bin": lambda: EVIL.encode() * 9,
}  # fmt: skip
COMMANDS = (["inspect"], ["inspect", "--tensors"], ["inspect", "--json"])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("file", FILES)
def test_no_control_character_reaches_the_terminal(
    file: str, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / file
    path.write_bytes(FILES[file]())

    main([*command, str(path)])
    main(["convert", str(path), str(tmp_path / "out.ckpt")])

    shown = "".join(capsys.readouterr())
    assert shown
    assert set(shown) & ODD == set()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_folder_does_not_either(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    diffusers(tmp_path, unet=EVIL)
    tmp_path.joinpath("unet", "diffusion_pytorch_model.safetensors").write_bytes(ONE_SAFE)
    index = {"_class_name": EVIL, "unet": ["diffusers", EVIL], EVIL: ["diffusers", EVIL]}
    tmp_path.joinpath("model_index.json").write_text(json.dumps(index))

    main([*command, str(tmp_path)])

    assert set("".join(capsys.readouterr())) & ODD == set()


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_file_name_that_is_no_text_is_shown_too(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.safetensors"))
    path.write_bytes(ONE_SAFE)

    assert main([*command, str(path)]) == 0
    assert ".safetensors" in capsys.readouterr().out
