"""Names to checkpoints: paths, the starter, deltas on their bases."""

import hashlib

import numpy as np
import pytest

import memcard
from fixtures import small
from memcard.core.checkpoint import Checkpoint
from memcard.errors import CorruptError, MismatchError, NotFoundError, UnsupportedError
from memcard.jobs import resolve as resolving
from memcard.jobs.resolve import node_for, resolve
from memcard.recipes.nodes import Apply, Source


def delta_of(path, folder, arrays, **more):
    stated = {
        "memcard.delta.mode": "replace",
        "memcard.delta.base_sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "modelspec.title": "Tuned",
        **more,
    }
    return small.save(folder / "delta.safetensors", arrays, stated)


@pytest.fixture
def base(tmp_path):
    return small.save(tmp_path / "base.safetensors", small.weights(1))


def test_a_path_is_opened(base):
    checkpoint = memcard.open(base)

    assert isinstance(checkpoint, Checkpoint)
    assert checkpoint.format == "safetensors"
    assert checkpoint.architecture is None
    assert checkpoint.read("b.bias") == small.weights(1)["b.bias"].tobytes()
    assert checkpoint.extent("b.bias").path == base
    checkpoint.close()


def test_open_closes_at_the_end_of_the_block(base):
    with memcard.open(str(base)) as checkpoint:
        part = bytearray(4)
        checkpoint.readinto("b.bias", memoryview(part), 2)

    assert part == small.weights(1)["b.bias"].tobytes()[2:6]
    with pytest.raises(memcard.errors.MemcardError):
        checkpoint.read("b.bias")


def test_a_delta_stands_for_base_and_delta(base, tmp_path):
    new = small.weights(2)
    delta = delta_of(base, tmp_path, {"b.bias": new["b.bias"]})

    checkpoint = resolve(delta)

    assert list(checkpoint.specs) == list(small.weights(1))
    assert checkpoint.read("b.bias") == new["b.bias"].tobytes()
    assert checkpoint.read("scale") == small.weights(1)["scale"].tobytes()
    assert checkpoint.metadata == {"modelspec.title": "Tuned"}
    checkpoint.close()


def test_the_recipe_of_a_delta_names_both_by_content(base, tmp_path):
    delta = delta_of(base, tmp_path, {"b.bias": small.weights(2)["b.bias"]})

    node = node_for(delta)

    assert isinstance(node, Apply)
    digests = [hashlib.sha256(p.read_bytes()).hexdigest() for p in (base, delta)]
    assert node == Apply("overlay", (Source(str(base), digests[0]), Source(str(delta), digests[1])))


def test_only_files_that_can_be_the_base_are_hashed(base, tmp_path, monkeypatch):
    small.save(tmp_path / "another.safetensors", {"x": np.zeros(3, "f4")})
    (tmp_path / "broken.safetensors").write_bytes(b"broken")
    delta = delta_of(base, tmp_path, {"b.bias": small.weights(2)["b.bias"]})
    hashed = []
    digest = resolving.digest
    monkeypatch.setattr(resolving, "digest", lambda p, *a: hashed.append(p.name) or digest(p, *a))

    resolve(delta).close()

    assert hashed == ["base.safetensors"]


def test_a_delta_without_its_base_says_which_one_it_needs(base, tmp_path):
    delta = delta_of(base, tmp_path, {"b.bias": small.weights(2)["b.bias"]})
    wanted = hashlib.sha256(base.read_bytes()).hexdigest()
    small.save(base, small.weights(3))

    with pytest.raises(NotFoundError, match=wanted):
        resolve(delta)


def test_a_delta_that_does_not_fit_its_base_is_refused(base, tmp_path):
    delta = delta_of(base, tmp_path, {"b.bias": np.zeros(8, "f2")})

    with pytest.raises(MismatchError, match=r"b\.bias"):
        resolve(delta)


def test_a_delta_of_another_kind_is_refused(base, tmp_path):
    delta = delta_of(base, tmp_path, {"b.bias": np.zeros(7, "f2")}, **{"memcard.delta.mode": "xor"})

    with pytest.raises(UnsupportedError, match="'xor'"):
        resolve(delta)


def test_unknown_names_list_what_there_is(tmp_path):
    with pytest.raises(NotFoundError, match="starter"):
        resolve(tmp_path / "nope.safetensors")
    with pytest.raises(NotFoundError, match="starter/raw"):
        resolve("starter/nope")
    with pytest.raises(NotFoundError):
        resolve("starter/../base")


def test_a_broken_file_is_refused_as_such(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes((99).to_bytes(8, "little") + b"{" + b" " * 5)

    with pytest.raises(CorruptError):
        resolve(path)


@pytest.mark.parametrize("name", resolving.names())
def test_every_name_of_the_starter_opens(name):
    with memcard.open(name) as checkpoint:
        assert len(checkpoint.specs) > 10
        known = checkpoint.architecture == "starter"
        assert known or "lora" in name or "vae" in name


def test_the_short_name_of_a_style_is_enough():
    with memcard.open("starter") as base, memcard.open("starter/raw") as raw:
        assert list(base.specs) == list(raw.specs)
        assert any(base.read(n) != raw.read(n) for n in base.specs)
