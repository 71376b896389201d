"""Weights by content: nothing is read twice, a swap takes the memory that is there, and a failed one leaves no mixture."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import memcard
from fixtures.packing import tuned
from fixtures.small import Arrays, save
from memcard.core.checkpoint import Checkpoint, Extent
from memcard.core.identity import identity, supply
from memcard.core.views import Arrangement, Piece, Rearranged
from memcard.core.views import Part as Some
from memcard.errors import IntegrityError, MismatchError
from memcard.formats import open_file
from memcard.generation.cache import Cache, Request
from memcard.generation.parts import Part

CPU = torch.device("cpu")
NAMES = {"0.weight": "a.w", "0.bias": "a.b"}
SIZE = 8 * (64 * 64 + 64)  # bytes of one checkpoint in float64
FEW = 10**6  # bytes: more than all of them together


def arrays(number: int, **more: int) -> dict[str, np.ndarray]:
    """One checkpoint; ``more`` gives single tensors another number."""
    found = {
        "a.w": np.full((64, 64), more.get("w", number), np.float32),
        "a.b": np.full(64, more.get("b", number), np.float32),
    }
    found["a.w"][0, 0] += 0.5
    return found


def network() -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(64, 64))


def request(
    checkpoint: Checkpoint, dtype: torch.dtype = torch.float64, name: str = "unet"
) -> Request:
    return Request(Part(name, checkpoint, NAMES, {}, "x"), network, dtype)


def opened(folder: Path, name: str, found: Arrays) -> Checkpoint:
    return open_file(save(folder / f"{name}.safetensors", found))


def values(module: nn.Module) -> dict[str, list[float]]:
    return {key: value.flatten().tolist() for key, value in module.state_dict().items()}


def pointers(module: nn.Module) -> set[int]:
    return {value.data_ptr() for value in module.state_dict().values()}


def plain(found: Arrays) -> dict[str, list[float]]:
    return {key: found[name].flatten().tolist() for key, name in NAMES.items()}


@pytest.fixture
def files(tmp_path: Path) -> Iterator[list[Checkpoint]]:
    found = [opened(tmp_path, f"file{i}", arrays(i)) for i in range(3)]
    yield found
    for checkpoint in found:
        checkpoint.close()


def by_bytes(extent: Extent) -> str:
    """Tell what the bytes are, as a library does."""
    with extent.path.open("rb") as file:
        file.seek(extent.offset)
        return f"made:{hash(file.read(extent.size))}"


def test_a_component_is_never_loaded_twice(files: list[Checkpoint]) -> None:
    cache = Cache(CPU, FEW)

    first = cache.load([request(files[0])])["unet"]
    read = cache.read_bytes
    second = cache.load([request(files[0])])["unet"]

    assert second is first
    assert cache.read_bytes == read == SIZE // 2
    assert values(second) == plain(arrays(0))


def test_the_same_bytes_in_two_files_and_two_components_are_one(tmp_path: Path) -> None:
    one = opened(tmp_path, "one", arrays(1))
    other = opened(tmp_path, "other", {"first": np.zeros(3, np.float32), **arrays(1)})
    cache = Cache(CPU, FEW, by_bytes)

    found = cache.load([request(one), request(other, name="vae")])

    assert found["unet"] is not found["vae"]
    assert pointers(found["unet"]) == pointers(found["vae"])
    assert cache.nbytes == SIZE


def test_a_file_that_was_written_again_is_another(tmp_path: Path) -> None:
    cache = Cache(CPU, FEW)
    cache.load([request(opened(tmp_path, "x", arrays(1)))])

    module = cache.load([request(opened(tmp_path, "x", arrays(2)))])["unet"]

    assert values(module) == plain(arrays(2))


def test_a_swap_puts_other_weights_into_the_same_network(files: list[Checkpoint]) -> None:
    cache = Cache(CPU, FEW)

    first = cache.load([request(files[0])])["unet"]
    second = cache.load([request(files[1])])["unet"]

    assert second is first
    assert values(second) == plain(arrays(1))
    assert not any(p.requires_grad for p in second.parameters())


def test_without_a_budget_a_swap_takes_the_memory_that_is_there(files: list[Checkpoint]) -> None:
    cache = Cache(CPU, budget=0)
    before = pointers(cache.load([request(files[0])])["unet"])

    after = cache.load([request(files[1])])["unet"]

    assert pointers(after) == before
    assert values(after) == plain(arrays(1))
    assert cache.nbytes == SIZE


def test_only_what_differs_is_read(tmp_path: Path) -> None:
    cache = Cache(CPU, 0, by_bytes)
    module = cache.load([request(opened(tmp_path, "one", arrays(1)))])["unet"]
    weight, read = module.state_dict()["0.weight"].data_ptr(), cache.read_bytes

    module = cache.load([request(opened(tmp_path, "two", arrays(1, b=2)))])["unet"]

    assert cache.read_bytes - read == 64 * 4
    assert module.state_dict()["0.weight"].data_ptr() == weight
    assert values(module) == plain(arrays(1, b=2))


def test_within_the_budget_both_stay(files: list[Checkpoint]) -> None:
    cache = Cache(CPU, budget=2 * SIZE)
    cache.load([request(files[0])])
    cache.load([request(files[1])])
    read = cache.read_bytes

    module = cache.load([request(files[0])])["unet"]

    assert cache.read_bytes == read
    assert values(module) == plain(arrays(0))
    assert cache.nbytes == 2 * SIZE


def test_what_was_used_longest_ago_goes_first(files: list[Checkpoint]) -> None:
    cache = Cache(CPU, budget=2 * SIZE)
    for i in (0, 1, 0, 2):
        cache.load([request(files[i])])
    read = cache.read_bytes

    cache.load([request(files[0])])
    assert cache.read_bytes == read
    module = cache.load([request(files[1])])["unet"]

    assert cache.read_bytes > read
    assert values(module) == plain(arrays(1))
    assert cache.nbytes == 2 * SIZE


def test_what_is_in_use_stays_whatever_the_budget(files: list[Checkpoint]) -> None:
    cache = Cache(CPU, budget=1)

    found = cache.load([request(files[0]), request(files[1], name="vae")])

    assert values(found["unet"]) == plain(arrays(0))
    assert values(found["vae"]) == plain(arrays(1))


def test_weights_of_the_right_dtype_are_windows_on_the_file(tmp_path: Path) -> None:
    path = next(
        path
        for extra in range(64)
        if (path := save(tmp_path / f"{extra}.safetensors", arrays(1), {"x": "x" * extra}))
        and open_file(path).extent("a.w").offset % 64 == 0  # type: ignore[union-attr]
    )
    module = Cache(CPU, 0).load([request(open_file(path), torch.float32)])["unet"]
    extent = open_file(path).extent("a.w")
    assert extent is not None

    with path.open("r+b") as file:  # what nobody should do, seen through
        file.seek(extent.offset)
        file.write(np.float32(7).tobytes())

    assert module.state_dict()["0.weight"][0, 0] == 7


def test_other_dtypes_do_not_share(files: list[Checkpoint]) -> None:
    cache = Cache(CPU, FEW)

    half = cache.load([request(files[1], torch.float16)])["unet"]
    double = cache.load([request(files[1])])["unet"]

    assert half.state_dict()["0.bias"].dtype == torch.float16
    assert double.state_dict()["0.bias"].dtype == torch.float64


def test_the_same_bytes_in_another_shape_are_another_weight(tmp_path: Path) -> None:
    def turned() -> nn.Module:
        with torch.device("meta"):
            return nn.Sequential(nn.Linear(32, 128, bias=False))

    flat = {"a.w": np.zeros((64, 64), np.float32), "a.b": np.zeros(64, np.float32)}
    wide = {"a.w": np.zeros((128, 32), np.float32)}
    part = Part("vae", opened(tmp_path, "wide", wide), {"0.weight": "a.w"}, {"wide": 1}, "x")
    cache = Cache(CPU, FEW, by_bytes)

    found = cache.load(
        [request(opened(tmp_path, "flat", flat)), Request(part, turned, torch.float64)]
    )

    assert found["unet"](torch.ones(64, dtype=torch.float64)).shape == (64,)
    assert found["vae"](torch.ones(32, dtype=torch.float64)).shape == (128,)


def test_components_that_are_let_go_are_loaded_again(files: list[Checkpoint]) -> None:
    cache = Cache(CPU, FEW)
    both = [request(files[0]), request(files[1], name="text_encoder")]
    cache.load(both)
    read = cache.read_bytes

    cache.let_go(["text_encoder"])
    assert cache.nbytes == SIZE
    found = cache.load(both)

    assert cache.read_bytes - read == SIZE // 2
    assert values(found["text_encoder"]) == plain(arrays(1))


def test_parameters_that_are_one_stay_one(tmp_path: Path) -> None:
    def tied() -> nn.Module:
        with torch.device("meta"):
            found = nn.Sequential(nn.Linear(64, 64, bias=False), nn.Linear(64, 64, bias=False))
        found[1].weight = found[0].weight
        return found

    checkpoint = opened(tmp_path, "x", arrays(1))
    part = Part("unet", checkpoint, {"0.weight": "a.w", "1.weight": "a.w"}, {}, "x")

    module = Cache(CPU, 0).load([Request(part, tied, torch.float64)])["unet"]

    assert module[0].weight is module[1].weight  # type: ignore[index]


def test_a_checkpoint_that_does_not_fit_leaves_everything_as_it_was(
    files: list[Checkpoint], tmp_path: Path
) -> None:
    cache = Cache(CPU, budget=0)
    module = cache.load([request(files[0])])["unet"]
    odd = opened(tmp_path, "odd", {**arrays(1), "a.b": np.zeros(3, np.float32)})

    with pytest.raises(MismatchError, match=r"'a\.b' is \(3,\)"):
        cache.load([request(odd)])

    assert values(module) == plain(arrays(0))


class Packed:
    """A library with a base and its fine-tune, both packed, no plain file left."""

    def __init__(self, root: Path) -> None:
        rng = np.random.default_rng(0)
        shapes = {"a.w": (64, 64), "a.b": (64,)}
        base = {n: (rng.standard_normal(s) * 0.05).astype("f4") for n, s in shapes.items()}
        big = (rng.standard_normal((700, 1000)) * 0.05).astype("f4")
        self.base = {**base, "more": big}
        self.tune = tuned(self.base, 1)
        self.library = memcard.Library(root / "home")
        for name, found in (("base", self.base), ("tune", self.tune)):
            self.library.add([save(root / f"{name}.safetensors", found)], how="move")
            self.library.pack(name)

    def damage(self, *, all_but: str | None = None) -> None:
        for path in self.library.layout.packs.glob("??/*.pack"):
            if path.stem != all_but:
                raw = bytearray(path.read_bytes())
                raw[200 : len(raw) // 2] = bytes(len(raw) // 2 - 200)
                path.chmod(0o644)
                path.write_bytes(raw)


@pytest.fixture
def packed(tmp_path: Path) -> Packed:
    return Packed(tmp_path)


def big(checkpoint: Checkpoint) -> Request:
    def make() -> nn.Module:
        with torch.device("meta"):
            return nn.Sequential(nn.Linear(1000, 700, bias=False))

    return Request(Part("unet", checkpoint, {"0.weight": "more"}, {}, "x"), make, torch.float32)


@pytest.mark.parametrize("budget", [0, FEW * 10], ids=["in place", "beside"])
def test_of_a_packed_fine_tune_only_the_difference_is_read(packed: Packed, budget: int) -> None:
    cache = Cache(CPU, budget)
    with packed.library.open("base") as base, packed.library.open("tune") as tune:
        module = cache.load([big(base)])["unet"]
        before = pointers(module)
        packs = {p: p.stat().st_size for p in packed.library.layout.packs.glob("??/*.pack")}
        whole = max(packs, key=lambda p: packs[p])
        packed.damage(all_but=min(packs, key=lambda p: packs[p]).stem)
        assert len(packs) == 2
        assert whole.exists()
        with pytest.raises(IntegrityError):  # the base cannot be read any more
            tune.read("more")

        supply(tune, cache.supply)
        module = cache.load([big(tune)])["unet"]

    assert module.state_dict()["0.weight"].numpy().tobytes() == packed.tune["more"].tobytes()
    assert (pointers(module) == before) == (budget == 0)


def test_a_swap_that_fails_leaves_no_mixture(packed: Packed) -> None:
    cache = Cache(CPU, budget=0)
    with packed.library.open("tune") as tune, packed.library.open("base") as base:
        copy = save(packed.library.layout.root.parent / "plain.safetensors", packed.base)
        wanted = big(open_file(copy))
        module = cache.load([wanted])["unet"]
        packed.damage()

        with pytest.raises(IntegrityError, match="is damaged"):
            cache.load([big(tune)])
        left = values(module) if not next(module.parameters()).is_meta else None
        assert left in (None, {"0.weight": packed.base["more"].flatten().tolist()})
        assert base.specs

        module = cache.load([wanted])["unet"]

    assert module.state_dict()["0.weight"].numpy().tobytes() == packed.base["more"].tobytes()


def test_a_packed_tensor_is_the_one_in_the_file_it_was_packed_from(packed: Packed) -> None:
    with packed.library.open("base") as base:
        views = (
            base,
            Some(base, ["a.w"]),
            Rearranged(
                base,
                {"a.w": Arrangement(base.specs["a.w"], (Piece("a.w", 0, 64 * 64 * 4),))},
            ),
        )
        assert len({identity(view, "a.w") for view in views}) == 1
        half = Rearranged(base, {"a.w": Arrangement(base.specs["a.b"], (Piece("a.w", 0, 64 * 4),))})
        assert identity(half, "a.w") != identity(base, "a.w")
        assert str(identity(base, "a.w")).startswith("blake3:")
