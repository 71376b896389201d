from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from fixtures.small import save, weights
from memcard.core.digest import digests_file
from memcard.core.progress import Event, Progress
from memcard.errors import NotFoundError
from memcard.jobs.digests import data_offset, digests, files_of


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def index(tmp_path: Path) -> Path:
    names = ("m-00001-of-00002.safetensors", "m-00002-of-00002.safetensors")
    for i, name in enumerate(names):
        save(tmp_path / name, {f"t{i}": weights(i)["a.weight"]})
    path = tmp_path / "m.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": {"t0": names[0], "t1": names[1]}}))
    return path


def test_one_file(tmp_path: Path) -> None:
    path = save(tmp_path / "x.safetensors", weights(1))
    size = int.from_bytes(path.read_bytes()[:8], "little")

    found = digests(path)

    assert found == {"x.safetensors": digests_file(path, data_offset=8 + size)}
    assert len(found["x.safetensors"]) == 7


def test_an_index_and_its_shards(index: Path) -> None:
    seen: list[Event] = []

    found = digests(index, only=("sha256",), progress=seen.append)

    files = [index, *sorted(index.parent.glob("*.safetensors"))]
    assert found == {file.name: {"sha256": sha(file)} for file in files}
    total = sum(file.stat().st_size for file in files)
    assert seen[-1] == Progress("digests", total, total)


def test_the_weights_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "unet").mkdir()
    save(tmp_path / "unet" / "diffusion_pytorch_model.safetensors", weights(1))
    (tmp_path / "unet" / "config.json").write_text("{}")
    (tmp_path / "model_index.json").write_text("{}")

    found = digests(tmp_path)

    assert list(found) == ["unet/diffusion_pytorch_model.safetensors"]
    assert "autov3" in found["unet/diffusion_pytorch_model.safetensors"]


@pytest.mark.parametrize(
    "text", ["", "[]", '{"weight_map": 3}', '{"weight_map": {"a": "../x.safetensors", "b": 7}}']
)
def test_a_broken_index_leads_nowhere(text: str, tmp_path: Path) -> None:
    save(tmp_path / "x.safetensors", weights(1))
    (tmp_path / "sub").mkdir()
    path = tmp_path / "sub" / "m.safetensors.index.json"
    path.write_text(text)

    assert files_of(path) == (path,)


def test_an_unsafe_file_has_digests_too(tmp_path: Path) -> None:
    path = tmp_path / "x.pkl"
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")

    assert data_offset(path) is None
    assert digests(path, only=("sha256",)) == {"x.pkl": {"sha256": sha(path)}}


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError):
        digests(tmp_path / "none")
