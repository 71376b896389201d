"""What was written once is read for ever: docs/spec/finetune.md, version 1."""

import hashlib
import json
from pathlib import Path

import torch
from blake3 import blake3

from memcard.formats import open_file
from memcard.training.finetune.cache import Cache, key_of
from memcard.training.finetune.folder import read_folder

GOLDEN = Path(__file__).parents[3] / "golden" / "finetune_v1"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text("utf-8"))


def test_the_fingerprint_of_a_folder_never_changes() -> None:
    folder = read_folder(GOLDEN / "pictures")
    lines = [json.dumps([e.sha256, e.caption, e.repeats]) for e in folder.examples]
    by_hand = hashlib.sha256("\n".join(["memcard-data-1", *sorted(lines)]).encode()).hexdigest()

    assert folder.fingerprint == by_hand == EXPECTED["fingerprint"]
    assert {(e.caption, e.repeats) for e in folder.examples} == {("a red thing", 1), ("blau", 3)}


def test_keys_of_the_cache_never_change() -> None:
    for key, facts in EXPECTED["keys"].items():
        text = json.dumps({"memcard_cache": 1, **facts}, sort_keys=True, ensure_ascii=False)
        assert key_of(**facts) == key == hashlib.sha256(text.encode()).hexdigest()


def test_entries_of_the_cache_are_read() -> None:
    cache = Cache(GOLDEN / "cache")
    first, second = (cache.get(key) for key in EXPECTED["keys"])

    assert first is not None
    assert second is not None
    assert torch.equal(first["latents"], torch.arange(16.0).reshape(4, 2, 2) / 8)
    assert torch.equal(second["states"], torch.arange(6.0).reshape(3, 2).half())
    assert torch.equal(second["pooled"], torch.tensor([1.0, -2.0]))


def test_the_digest_of_an_entry_is_the_one_of_the_specification() -> None:
    for key in EXPECTED["keys"]:
        entry = open_file(GOLDEN / "cache" / key[:2] / f"{key}.safetensors")
        digest = blake3(key.encode())
        for name, spec in entry.specs.items():
            digest.update(f"\n{name} {spec}\n".encode() + bytes(entry.read(name)))

        assert entry.metadata["memcard.cache"] == digest.hexdigest()
        entry.close()
