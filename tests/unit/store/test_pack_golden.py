"""Packs of version 1 are read for ever, with compiled loops and without; the specification's example is one."""

import json
import re
from pathlib import Path

import pytest
from blake3 import blake3

from memcard.codecs import CODECS, _ans, _ans_fast, _ans_plain
from memcard.store.pack import Pack, PackWriter, reader_of

ROOT = Path(__file__).parents[3]
GOLDEN = ROOT / "tests" / "golden" / "pack_v1"
SPEC = (ROOT / "docs" / "spec" / "pack.md").read_text("utf-8")


def made_by_the_recipe(key: str, offset: int, out: memoryview) -> bool:
    if key != "11" * 32:
        return False
    out[:] = (bytes(range(256)) * 12)[offset : offset + len(out)]
    return True


@pytest.mark.parametrize("loops", [_ans_fast, _ans_plain], ids=["compiled", "numpy"])
def test_packs_of_version_1_are_read_for_ever(monkeypatch, loops) -> None:
    monkeypatch.setattr(_ans, "kernels", lambda: loops)
    (path,) = GOLDEN.glob("*.pack")

    with Pack.open(path) as pack:
        read = reader_of(lambda key: pack if key in pack.objects else None, made_by_the_recipe)
        found = {
            o.key: [o.kind, o.item, o.size, o.codec, o.base, o.depth] for o in pack.objects.values()
        }

        assert found == json.loads((GOLDEN / "objects.json").read_text())
        assert pack.verify(read) == ()


def test_the_golden_pack_has_every_codec_mode_kind_and_width() -> None:
    (path,) = GOLDEN.glob("*.pack")

    with Pack.open(path) as pack:
        objects = tuple(pack.objects.values())

    assert {o.codec for o in objects} == set(CODECS) - {"turned_ans"}  # which has a pack of its own
    assert {b.mode for o in objects for b in o.blocks} == {"raw", "codec", "same"}
    assert {o.kind for o in objects} == {"tensor", "skeleton", "residual"}
    assert {(o.codec, o.item) for o in objects} >= {
        (codec, item) for codec in ("delta_ans", "planes_ans") for item in (1, 2, 4, 8)
    }
    assert {o.depth for o in objects} == {0, 1, 2}


def test_the_example_of_the_specification_is_what_is_written(tmp_path: Path) -> None:
    lines = re.findall(r"^[0-9a-f]{4}  ((?:[0-9a-f]{2} ?)+)", SPEC, re.MULTILINE)
    example = bytes.fromhex("".join(lines))
    raw = b"memcard!memcard!"

    def read(offset: int, out: memoryview) -> None:
        out[:] = raw[offset : offset + len(out)]

    with PackWriter(tmp_path) as writer:
        writer.add(blake3(raw).hexdigest(), 16, read, item=4)
        path = writer.commit()

    assert path.read_bytes() == example
    assert path.name in SPEC
