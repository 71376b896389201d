"""What other programs made is traced to what they made it from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from memcard.errors import UsageError
from memcard.jobs.bake import bake
from memcard.jobs.discover import discover
from memcard.jobs.library import Library
from memcard.jobs.merge import merge
from memcard.recipes.nodes import Apply

SHAPES = {
    "model.diffusion_model.input_blocks.1.0.in_layers.2.weight": (48, 32, 3, 3),
    "model.diffusion_model.input_blocks.1.0.in_layers.2.bias": (48,),
    "model.diffusion_model.middle_block.1.proj_in.weight": (96, 96),
    "model.diffusion_model.output_blocks.2.0.out_layers.3.weight": (64, 64, 3, 3),
    "first_stage_model.decoder.conv_in.weight": (32, 4, 3, 3),
    "cond_stage_model.transformer.text_model.final_layer_norm.weight": (96,),
    "model.diffusion_model.scale": (),
}
Tensors = dict[str, torch.Tensor]


def weights(seed: int, base: Tensors | None = None, dtype: Any = torch.float32) -> Tensors:
    """Return random weights, or a fine-tune of some: theirs plus N(0, 0.002)."""
    rng = torch.Generator().manual_seed(seed)
    noise = {n: torch.randn(s, generator=rng) for n, s in SHAPES.items()}
    if base is None:
        return {n: (v * 0.05).to(dtype) for n, v in noise.items()}
    return {n: (base[n].float() + v * 0.002).to(dtype) for n, v in noise.items()}


@pytest.fixture(params=[torch.float16, torch.bfloat16, torch.float32], ids=str)
def family(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, tuple[Path, Tensors]]:
    """Save a base and three fine-tunes."""
    base = weights(0)
    found = {"base": {n: v.to(request.param) for n, v in base.items()}}
    found |= {name: weights(i, base, request.param) for i, name in enumerate("ABC", 1)}
    return {name: (save(tmp_path / f"{name}.safetensors", t), t) for name, t in found.items()}


def save(path: Path, tensors: Tensors) -> Path:
    save_file({n: v.contiguous() for n, v in tensors.items()}, path)
    return path


def made(family: dict[str, tuple[Path, Tensors]], work: Any, path: Path) -> Path:
    """Save what ``work`` makes of every tensor of base, A, B and C."""
    parts = {name: tensors for name, (_, tensors) in family.items()}
    return save(path, {n: work(*(parts[k][n] for k in ("base", *"ABC"))) for n in SHAPES})


def check_again(found: Any, target: Path, folder: Path) -> None:
    """Bake the recipe: it must give the tensors of the target."""
    bake(found.recipe, folder / "again.safetensors")
    theirs, ours = load_file(target), load_file(folder / "again.safetensors")
    assert {n: raw(v) for n, v in theirs.items()} == {n: raw(v) for n, v in ours.items()}


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy().tobytes()


NAIVE = {
    "float": (lambda o, a, b, c: (0.7 * a.float() + 0.3 * b.float()).to(a.dtype), "0.7 A + 0.3 B"),
    "stored": (lambda o, a, b, c: 0.7 * a + 0.3 * b, "0.7 A + 0.3 B"),
    "a1111": (lambda o, a, b, c: (1 - 0.25) * a + 0.25 * b, "0.75 A + 0.25 B"),
    "lerp": (lambda o, a, b, c: torch.lerp(a, b, 0.35), "0.65 A + 0.35 B"),
    "three": (
        lambda o, a, b, c: (0.5 * a.float() + 0.3 * b.float() + 0.2 * c.float()).to(a.dtype),
        "0.5 A + 0.3 B + 0.2 C",
    ),
    "mean": (
        lambda o, a, b, c: ((a.float() + b.float() + c.float()) / 3).to(a.dtype),
        "0.333333 A + 0.333333 B + 0.333333 C",
    ),
}


@pytest.mark.parametrize("how", NAIVE)
def test_a_merge_by_a_script(how: str, family: Any, tmp_path: Path) -> None:
    work, title = NAIVE[how]
    target = made(family, work, tmp_path / "target.safetensors")

    found = discover(target, [family[k][0] for k in ("base", *"ABC")])

    assert found is not None
    assert found.title.partition(", 1 tensors")[0] == title
    assert found.different is not None
    assert found.different <= found.values // 2000
    if how != "lerp":  # of which PyTorch computes the last few values otherwise
        assert found.different <= 2
    if found.exact:
        check_again(found, target, tmp_path)


GOLDEN = Path(__file__).parents[2] / "golden" / "mergekit_weights"


@pytest.mark.parametrize(
    ("name", "title"), [("two", "0.7 A + 0.3 B"), ("three", "0.5 A + 0.3 B + 0.2 C")]
)
def test_a_merge_by_mergekit(name: str, title: str) -> None:
    """float16, mergekit-pytorch 0.1.5, linear."""
    found = discover(GOLDEN / f"{name}.safetensors", [GOLDEN / f"{k}.safetensors" for k in "ABC"])

    assert found is not None
    assert (found.title, found.different) == (title, 0)


@pytest.mark.parametrize("floating", [True, False], ids=["float", "stored"])
def test_add_difference_by_a_script(floating: bool, family: Any, tmp_path: Path) -> None:
    def work(o: Any, a: Any, b: Any, c: Any) -> Any:
        if floating:
            return (a.float() + (b.float() - o.float()) * 0.8).to(a.dtype)
        return a + (b - o) * 0.8

    target = made(family, work, tmp_path / "target.safetensors")

    found = discover(target, [family[k][0] for k in ("base", *"ABC")])

    assert found is not None
    assert found.title == "A + 0.8 (B - base)"
    assert found.exact


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_a_cast_by_torch(dtype: Any, tmp_path: Path) -> None:
    base = weights(0)
    parents = [save(tmp_path / f"{i}.safetensors", weights(i, base)) for i in (1, 2)]
    target = save(tmp_path / "t.safetensors", {n: v.to(dtype) for n, v in weights(2, base).items()})

    found = discover(target, parents)

    assert found is not None
    assert (found.title, found.exact) == ("2, cast", True)
    assert isinstance(found.recipe, Apply)
    assert found.recipe.op == "cast"


def test_our_own_merges_and_averages_of_many(family: Any, tmp_path: Path) -> None:
    paths = [family[k][0] for k in ("base", *"ABC")]
    merge(
        "weighted_average", paths, weights=[0.4, 0.3, 0.2, 0.1], out=tmp_path / "four.safetensors"
    )

    found = discover(tmp_path / "four.safetensors", paths)

    assert found is not None
    assert found.title == "0.4 base + 0.3 A + 0.2 B + 0.1 C"
    assert found.exact


def test_a_mix_of_parts(family: Any, tmp_path: Path) -> None:
    a, b, c = (family[k][1] for k in "ABC")
    target = {n: (0.6 * a[n].float() + 0.4 * b[n].float()).to(a[n].dtype) for n in SHAPES}
    target["first_stage_model.decoder.conv_in.weight"] = c[
        "first_stage_model.decoder.conv_in.weight"
    ]
    path = save(tmp_path / "t.safetensors", target)

    found = discover(path, [family[k][0] for k in "ABC"])

    assert found is not None
    assert found.exact
    assert found.title == "0.6 A + 0.4 B, 1 tensors as in C"
    check_again(found, path, tmp_path)


def test_weights_that_differ_from_block_to_block(family: Any, tmp_path: Path) -> None:
    a, b = (family[k][1] for k in "AB")
    share = {n: 0.25 if ".output_blocks." in n else 0.5 for n in SHAPES}
    target = {
        n: ((1 - w) * a[n].double() + w * b[n].double()).to(a[n].dtype) for n, w in share.items()
    }
    path = save(tmp_path / "t.safetensors", target)

    found = discover(path, [family[k][0] for k in ("base", *"AB")])

    assert found is not None
    assert found.different is not None
    assert found.different <= 2
    assert found.title == "0.5 A + 0.5 B, other weights in 1 tensors"


def test_the_parts_of_several(family: Any, tmp_path: Path) -> None:
    a, b = (family[k][1] for k in "AB")
    path = save(
        tmp_path / "t.safetensors", {n: (a if n.startswith("model.") else b)[n] for n in SHAPES}
    )

    found = discover(path, [family[k][0] for k in "AB"])

    assert found is not None
    assert found.exact
    assert found.title == "5 tensors of A, 2 tensors of B"
    check_again(found, path, tmp_path)


def test_what_is_related_to_nothing_is_not_explained(family: Any, tmp_path: Path) -> None:
    stranger = save(tmp_path / "t.safetensors", weights(99))

    assert discover(stranger, [family[k][0] for k in ("base", *"AB")]) is None


def test_a_fine_tune_is_no_weighted_sum(family: Any) -> None:
    found = discover(family["C"][0], [family[k][0] for k in ("base", *"AB")])

    assert found is None


def test_some_values_that_were_changed_afterwards_are_counted(family: Any, tmp_path: Path) -> None:
    a, b = (family[k][1] for k in "AB")
    target = {n: (0.5 * a[n].double() + 0.5 * b[n].double()).to(a[n].dtype) for n in SHAPES}
    name = "model.diffusion_model.middle_block.1.proj_in.weight"
    target[name] = target[name].clone()
    target[name].view(-1)[5000:5012] += 1
    path = save(tmp_path / "t.safetensors", target)

    found = discover(path, [family[k][0] for k in "AB"])

    assert found is not None
    assert found.different == 12
    assert found.worst == ((name, 12),)
    assert not found.exact


def test_a_tensor_no_candidate_has(family: Any, tmp_path: Path) -> None:
    a, b = (family[k][1] for k in "AB")
    target = {n: 0.5 * a[n] + 0.5 * b[n] for n in SHAPES} | {"extra": torch.ones(3)}
    path = save(tmp_path / "t.safetensors", target)

    found = discover(path, [family[k][0] for k in "AB"])

    assert found is not None
    assert found.missing == ("extra",)
    assert not found.exact


def test_an_average_made_after_training(tmp_path: Path) -> None:
    base = weights(0)
    paths = []
    for i in range(6):
        base = weights(i + 1, base)
        paths.append(save(tmp_path / f"s{i}.safetensors", base))
    out = save(
        tmp_path / "ema.safetensors",
        {
            n: sum(w * load_file(p)[n].double() for w, p in zip(EMA, paths, strict=True)).float()
            for n in SHAPES
        },
    )

    found = discover(out, paths)

    assert found is not None
    assert found.different is not None
    assert found.different <= found.values // 50


EMA = (0.0123456, 0.0912345, 0.1234567, 0.2345678, 0.3141592, 0.2242362)


def test_a_lora_baked_by_peft(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.to_q, self.to_v = torch.nn.Linear(96, 96), torch.nn.Linear(96, 64)

    torch.manual_seed(0)
    model = peft.get_peft_model(
        Net(), peft.LoraConfig(r=4, lora_alpha=8, target_modules=["to_q", "to_v"])
    )
    for name, value in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.02)
    base = {
        n.replace("base_model.model.", "").replace("base_layer.", ""): v.clone()
        for n, v in model.state_dict().items()
        if "lora_" not in n
    }
    lora = {n: v.clone() for n, v in model.state_dict().items() if "lora_" in n}
    lora = {n.replace(".default", ""): v for n, v in lora.items()}
    lora |= {
        n.replace("lora_A.weight", "alpha"): torch.tensor(8.0) for n in list(lora) if "lora_A" in n
    }
    baked = model.merge_and_unload().state_dict()
    base_path = save(tmp_path / "base.safetensors", base)
    lora_path = save(tmp_path / "style.safetensors", lora)
    target = save(tmp_path / "baked.safetensors", baked)

    found = discover(target, [base_path, lora_path])

    assert found is not None
    assert found.title == "base with 1 style baked in"
    assert found.different is not None
    assert found.different < 0.2 * found.values  # PEFT adds in float32, in an order of its own


def test_a_lora_baked_by_a_script_in_float32_is_exact(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(1)
    names = ["attn1.to_q", "attn1.to_v"]
    base = {f"{n}.weight": torch.randn(96, 64, generator=rng) * 0.05 for n in names}
    base |= {"norm.bias": torch.randn(64, generator=rng)}
    lora, baked = {}, dict(base)
    for name in names:
        up = torch.randn(96, 8, generator=rng) * 0.02
        down = torch.randn(8, 64, generator=rng) * 0.02
        stem = f"base_model.model.{name}"
        lora |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
        baked[f"{name}.weight"] = base[f"{name}.weight"] + up @ down
    paths = [
        save(tmp_path / "base.safetensors", base),
        save(tmp_path / "style.safetensors", lora),
    ]
    target = save(tmp_path / "baked.safetensors", baked)

    found = discover(target, paths)

    assert found is not None
    assert found.exact
    check_again(found, target, tmp_path)


STEPS = {
    "change": lambda mean, value: mean + (value - mean) * 0.2,
    "scale": lambda mean, value: mean.mul(0.8).add(value, alpha=0.2),
    "lerp": lambda mean, value: mean.lerp(value, 0.2),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_moving_average_of_snapshots(step: str, tmp_path: Path) -> None:
    base = weights(0)
    found = {"base": base} | {n: weights(i, base, torch.float32) for i, n in enumerate("AB", 1)}
    family = {n: (save(tmp_path / f"{n}.safetensors", t), t) for n, t in found.items()}
    average = dict(base)
    for name in "AB":
        average = {n: STEPS[step](average[n], found[name][n]) for n in SHAPES}
    target = save(tmp_path / "average.safetensors", average)

    guess = discover(target, [path for path, _ in family.values()])

    assert guess is not None
    assert sorted(guess.title.split(" + ")) == ["0.16 A", "0.2 B", "0.64 base"]
    # The last few values of a run PyTorch adds one by one, not fused.
    assert guess.different is not None
    assert guess.different <= guess.values // 5_000


def test_relatives_that_explain_each_other_make_no_longer_sum(family: Any, tmp_path: Path) -> None:
    mixed = made(family, lambda o, a, b, c: (0.5 * o.float() + 0.5 * a.float()).to(a.dtype), tmp_path / "mixed.safetensors")  # fmt: skip
    other = made(family, lambda o, a, b, c: (0.2 * o.float() + 0.8 * a.float()).to(a.dtype), tmp_path / "other.safetensors")  # fmt: skip
    target = made(family, lambda o, a, b, c: 0.7 * o + 0.3 * a, tmp_path / "target.safetensors")

    found = discover(target, [mixed, other, family["A"][0], family["B"][0], family["base"][0]])

    assert found is not None
    assert found.exact
    assert sorted(found.title.split(" + ")) == ["0.3 A", "0.7 base"]


def test_a_stored_checkpoint_that_equals_it_is_named_alone(family: Any, tmp_path: Path) -> None:
    parts = {name: tensors for name, (_, tensors) in family.items()}
    mixed = {n: (parts["base"][n] + parts["A"][n]) / 2 for n in SHAPES}
    kept = "first_stage_model.decoder.conv_in.weight"
    mixed[kept] = parts["base"][kept]  # the autoencoder is everybody's
    target = save(tmp_path / "target.safetensors", mixed)
    twin = save(tmp_path / "twin.safetensors", mixed)

    found = discover(target, [family["base"][0], family["A"][0], twin])

    assert found is not None
    assert found.exact
    assert found.title == "the tensors of twin"


@pytest.mark.parametrize("value", [3.0, 6e4])
@pytest.mark.parametrize("where", ["target", "A"])
def test_wrong_values_do_not_hide_a_merge(
    value: float, where: str, family: Any, tmp_path: Path
) -> None:
    target = made(family, NAIVE["float"][0], tmp_path / "target.safetensors")
    path, tensors = family["A"] if where == "A" else (target, load_file(target))
    for name in ("model.diffusion_model.middle_block.1.proj_in.weight", "first_stage_model.decoder.conv_in.weight"):  # fmt: skip
        tensors[name].view(-1)[7] = value
    save(path, tensors)

    found = discover(target, [family["A"][0], family["B"][0], family["C"][0]])

    assert found is not None
    assert found.title == "0.7 A + 0.3 B"
    assert found.different == 2


def test_candidates_are_called_by_their_names_in_the_library(
    family: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMCARD_HOME", str(tmp_path / "home"))
    library = Library()
    library.add([family["A"][0]], name="film v1.5")
    (added,) = library.add([family["B"][0]])
    target = made(family, NAIVE["float"][0], tmp_path / "target.safetensors")

    found = discover(target, ["film v1.5", added.sha256[:10]])

    assert found is not None
    assert found.title == "0.7 film v1.5 + 0.3 B"


def test_there_must_be_candidates(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one"):
        discover(tmp_path / "x.safetensors", [])
