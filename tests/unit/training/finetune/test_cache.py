from pathlib import Path

import pytest
import torch

from memcard.training.finetune.cache import Cache, Remembered, key_of

KEY = key_of(what="latents", picture="ab", crop=[1, 2])


def test_a_key_depends_on_every_fact_and_not_on_their_order() -> None:
    assert key_of(crop=[1, 2], picture="ab", what="latents") == KEY
    assert key_of(what="latents", picture="ab", crop=[2, 1]) != KEY
    assert len(KEY) == 64


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_entry_comes_back_bit_for_bit(tmp_path: Path, dtype: torch.dtype) -> None:
    cache = Cache(tmp_path)
    value = {"states": torch.randn(3, 5).to(dtype), "pooled": torch.randn(7).to(dtype)}

    cache.put(KEY, value)
    found = cache.get(KEY)

    assert found is not None
    assert all(torch.equal(found[name], value[name]) for name in value)
    assert cache.size() > cache.written > 0


def test_any_flipped_byte_and_any_other_name_make_an_entry_missing(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put(KEY, {"latents": torch.ones(4)})
    path = cache.path(KEY)
    assert path is not None
    whole = path.read_bytes()

    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        found = cache.get(KEY)
        assert found is None or torch.equal(found["latents"], torch.ones(4)), at
    path.write_bytes(whole[:-4])
    assert cache.get(KEY) is None
    other = cache.path(KEY[::-1])
    assert other is not None
    other.parent.mkdir()
    other.write_bytes(whole)
    assert cache.get(KEY[::-1]) is None


def test_without_a_folder_nothing_is_kept() -> None:
    cache = Cache(None)
    cache.put(KEY, {"latents": torch.ones(4)})

    assert cache.get(KEY) is None
    assert cache.size() == 0


def test_values_are_computed_once_and_in_the_order_asked_for(tmp_path: Path) -> None:
    asked: list[list[int]] = []

    def compute(places: list[int]) -> list[dict[str, torch.Tensor]]:
        asked.append(list(places))
        return [{"v": torch.tensor([float(p)])} for p in places]

    values = Remembered(Cache(tmp_path))
    first = values.get(["aa", "bb", "aa", "cc"], compute)
    again = values.get(["cc", "aa"], compute)
    later = Remembered(Cache(tmp_path)).get(["bb"], compute)

    assert [v["v"].item() for v in first] == [0, 1, 0, 3]
    assert [v["v"].item() for v in again] == [3, 0]
    assert later[0]["v"].item() == 1
    assert asked == [[0, 1, 3]]


def test_what_memory_does_not_hold_is_read_again(tmp_path: Path) -> None:
    values = Remembered(Cache(tmp_path), most=4)
    values.get(["aa", "bb"], lambda places: [{"v": torch.ones(1)} for _ in places])

    found = values.get(["aa", "bb"], lambda places: pytest.fail("computed again"))

    assert len(found) == 2


def test_what_is_not_to_be_kept_is_not_on_the_disk(tmp_path: Path) -> None:
    values = Remembered(Cache(tmp_path))
    values.get(["aa"], lambda places: [{"v": torch.ones(1)}], keep=False)

    assert Cache(tmp_path).get("aa") is None
