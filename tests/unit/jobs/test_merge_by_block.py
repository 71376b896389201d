"""Merging some tensors one way and some another: blocks, parts, missing names, values that are none."""

import json
from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures import small
from fixtures.sd15 import shapes
from memcard.errors import MismatchError, UsageError
from memcard.formats import open_file
from memcard.jobs._block_weights import block_labels, block_weights
from memcard.jobs._merge_rules import cover, parts_named
from memcard.jobs._methods import method_lines, method_names
from memcard.jobs.bake import bake
from memcard.jobs.merge import merge, methods
from memcard.recipes.text import from_json

NAMES = [name for i, name in enumerate(shapes()) if i % 9 == 0 or "quant_conv" in name]


def model(seed, names=NAMES):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(37).astype("f2") for name in names}


@pytest.fixture
def pair(tmp_path):
    return [small.save(tmp_path / f"{n}.safetensors", model(i)) for i, n in enumerate("ab")]


def bits(path):
    return {name: array.tobytes() for name, array in small.load(path).items()}


def part(name):
    return name.split(".")[0]


@pytest.mark.parametrize(
    "spec", ["GRAD_V", "0..1,BASE=0.25", "IN*=0.1,/attn2/=0.9,BASE=0.5,OUT*=1"]
)
def test_each_tensor_has_the_weight_of_its_block(pair, tmp_path, spec):
    made = merge("weighted_average", pair, blocks=spec, out=tmp_path / "out.safetensors")

    weights = block_weights(spec, block_labels(NAMES))
    a, b, out = model(0), model(1), small.load(made.out)
    for name in NAMES:
        w = weights.get(name, 0.5)  # where the spec is silent, equal shares
        mixed = ((1 - w) * a[name].astype("f8") + w * b[name].astype("f8")).astype("f2")
        assert out[name].tobytes() == mixed.tobytes(), name
    assert list(out) == NAMES


def test_the_recipe_in_the_file_gives_the_same_bytes(pair, tmp_path):
    more = {"blocks": "GRAD_A", "only": "unet"}
    made = merge("weighted_average", pair, out=tmp_path / "1.safetensors", **more)

    again = bake(made.out, tmp_path / "2.safetensors", threads=1)

    assert again.out.read_bytes() == made.out.read_bytes()
    assert len(made.recipe) < 12_000  # by prefixes, not by a thousand names


def test_equal_block_weights_are_the_plain_merge(pair, tmp_path):
    by_block = merge("weighted_average", pair, blocks="*=0.3", out=tmp_path / "1.safetensors")
    plain = merge("weighted_average", pair, weights=[0.7, 0.3], out=tmp_path / "2.safetensors")

    assert bits(by_block.out) == bits(plain.out)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_change_no_bit(pair, tmp_path, threads):
    one = merge(
        "weighted_average", pair, blocks="COSINE", out=tmp_path / "1.safetensors", threads=1
    )
    many = merge(
        "weighted_average", pair, blocks="COSINE", out=tmp_path / "2.safetensors", threads=threads
    )

    assert one.out.read_bytes() == many.out.read_bytes()


def test_only_the_unet_is_merged(pair, tmp_path):
    made = merge("weighted_average", pair, only="unet", out=tmp_path / "out.safetensors")

    plain = merge("weighted_average", pair, out=tmp_path / "plain.safetensors")
    a, out, whole = bits(pair[0]), bits(made.out), bits(plain.out)
    unet = {name for name in NAMES if part(name) == "model"}
    assert all(out[name] == (whole if name in unet else a)[name] for name in NAMES)
    assert made.computed == len(unet)


def test_the_vae_of_a_third_checkpoint_is_taken_bit_for_bit(pair, tmp_path):
    vae = small.save(
        tmp_path / "v.safetensors", model(7, [n for n in NAMES if part(n) == "first_stage_model"])
    )

    made = merge("weighted_average", pair, keep_vae_of=vae, out=tmp_path / "out.safetensors")

    out, theirs = bits(made.out), bits(vae)
    assert {n: b for n, b in out.items() if part(n) == "first_stage_model"} == theirs
    assert list(out) == NAMES
    assert json.loads(made.recipe)["node"]["params"]["merged"] == 2
    assert Counter(s.ref for s in from_json(made.recipe).inputs)["v.safetensors"] == 1


def test_a_vae_that_lacks_what_the_first_has_is_refused(pair, tmp_path):
    names = [n for n in NAMES if part(n) == "first_stage_model"]
    vae = small.save(tmp_path / "v.safetensors", model(7, names[1:]))

    with pytest.raises(MismatchError, match=f"'{names[0]}': in input 1, not in input 3"):
        merge("weighted_average", pair, keep_vae_of=vae, out=tmp_path / "out.safetensors")


def test_text_encoder_of_b_and_unet_merged(pair, tmp_path):
    made = merge(
        "weighted_average", pair, keep_text_encoder_of=pair[1], out=tmp_path / "out.safetensors"
    )

    out, b = bits(made.out), bits(pair[1])
    assert all(out[n] == b[n] for n in NAMES if part(n) == "cond_stage_model")
    assert out[NAMES[-1]] != b[NAMES[-1]] or part(NAMES[-1]) == "cond_stage_model"


def test_missing_tensors_are_refused_or_kept_of_the_first(pair, tmp_path):
    fewer = small.save(
        tmp_path / "f.safetensors", model(1, NAMES[3:]) | {"extra.weight": np.ones(3, "f2")}
    )

    with pytest.raises(MismatchError, match="in input 2, not in input 1") as caught:
        merge("weighted_average", [pair[0], fewer], out=tmp_path / "out.safetensors")
    made = merge(
        "weighted_average",
        [pair[0], fewer],
        missing="keep-first",
        out=tmp_path / "out.safetensors",
    )

    assert NAMES[0] in str(caught.value)
    out, a = bits(made.out), bits(pair[0])
    assert list(out) == NAMES
    assert all(out[name] == a[name] for name in NAMES[:3])
    assert out[NAMES[5]] != a[NAMES[5]]
    assert "3 tensors of the first checkpoint are kept" in made.notes[-2]
    assert "1 tensors are left out" in made.notes[-1]


def test_a_dry_run_tells_what_would_be_kept_and_how_long_it_takes(pair, tmp_path):
    fewer = small.save(tmp_path / "f.safetensors", model(1, NAMES[3:]))

    plan = merge(
        "weighted_average",
        [pair[0], fewer],
        missing="keep-first",
        dry_run=True,
        out=tmp_path / "out.safetensors",
    )

    assert not (tmp_path / "out.safetensors").exists()
    assert plan.computed == len(NAMES) - 3
    assert plan.seconds >= 0
    assert "3 tensors of the first" in plan.notes[0]


def test_values_that_are_none_are_counted_and_refused(pair, tmp_path):
    bad = model(1)
    bad[NAMES[2]][:5] = [np.nan, np.inf, -np.inf, np.nan, 1]
    odd = small.save(tmp_path / "odd.safetensors", bad)
    before = sorted(tmp_path.iterdir())

    with pytest.raises(MismatchError, match="4 computed values are NaN or infinite, in 1 tensors"):
        merge("weighted_average", [pair[0], odd], out=tmp_path / "out.safetensors")
    assert sorted(tmp_path.iterdir()) == before

    made = merge(
        "weighted_average", [pair[0], odd], nonfinite="allow", out=tmp_path / "out.safetensors"
    )
    assert made.nonfinite == 4


@pytest.mark.parametrize(("asked", "dtype"), [("fp32", "F32"), ("bf16", "BF16"), ("F16", "F16")])
def test_the_result_has_the_dtype_asked_for(pair, tmp_path, asked, dtype):
    made = merge("weighted_average", pair, dtype=asked, out=tmp_path / "out.safetensors")

    assert {spec.dtype.name for spec in open_file(made.out).specs.values()} == {dtype}


def test_methods_with_a_base_take_it_first(tmp_path):
    base, a, b = (small.save(tmp_path / f"{i}.safetensors", model(i)) for i in range(3))

    made = merge(
        "task_arithmetic", [a, b], base=base, out=tmp_path / "out.safetensors", **{"lambda": 0.5}
    )

    w0, wa, wb = (model(i)[NAMES[4]].astype("f8") for i in range(3))
    assert np.allclose(
        small.load(made.out)[NAMES[4]], w0 + 0.5 * ((wa - w0) + (wb - w0)), atol=2e-3
    )
    assert from_json(made.recipe).inputs[0].ref == "0.safetensors"


def test_methods_that_can_work_on_changes_do_so_when_a_base_is_given(tmp_path):
    base, a, b = (small.save(tmp_path / f"{i}.safetensors", model(i)) for i in range(3))

    made = merge("nuslerp", [a, b], base=base, out=tmp_path / "out.safetensors")
    plain = merge("nuslerp", [a, b], out=tmp_path / "plain.safetensors")

    node = json.loads(made.recipe)["node"]
    assert node["params"]["task_vectors"] is True
    assert [i["source"] for i in node["inputs"]] == [f"{i}.safetensors" for i in range(3)]
    assert bits(made.out) != bits(plain.out)


@pytest.mark.parametrize("method", ["ties", "task_arithmetic"])
def test_the_strength_of_a_change_differs_by_block(tmp_path, method):
    base, a, b = (small.save(tmp_path / f"{i}.safetensors", model(i)) for i in range(3))

    made = merge(
        method, [a, b], base=base, blocks="*=0,IN*=1", only="unet", out=tmp_path / "out.safetensors"
    )
    plain = merge(method, [a, b], base=base, out=tmp_path / "plain.safetensors")

    labels, out = block_labels(NAMES), small.load(made.out)
    first, whole, old = bits(a), bits(plain.out), small.load(base)
    for name in NAMES:
        if part(name) != "model":
            assert out[name].tobytes() == first[name]  # the first REF, not the base
        elif labels[name].startswith("IN"):
            assert out[name].tobytes() == whole[name]
        else:
            assert np.array_equal(out[name], old[name])


def test_a_method_that_looks_at_the_whole_model_keeps_parts_and_differs_by_block(pair, tmp_path):
    a, b = model(0), model(1)
    third = small.save(tmp_path / "vae.safetensors", model(7))
    made = merge(
        *("cosine_add", pair),
        keep_vae_of=third,
        blocks="*=0,OUT*=0.5,IN*=1",
        out=tmp_path / "out.safetensors",
    )
    plain = merge("cosine_add", pair, only="unet", out=tmp_path / "plain.safetensors")
    again = bake(tmp_path / "out.safetensors", out=tmp_path / "again.safetensors")

    out, unet = small.load(made.out), small.load(plain.out)
    labels = block_labels(NAMES)
    for name in NAMES:
        if part(name) == "first_stage_model":
            assert out[name].tobytes() == model(7)[name].tobytes()
            assert unet[name].tobytes() == a[name].tobytes()
        elif labels[name].startswith("IN"):  # alpha 1: nothing is so like that A stays
            assert np.array_equal(out[name], b[name])
        elif part(name) != "model":
            assert unet[name].tobytes() == a[name].tobytes()
    # where they are most alike A stays, elsewhere it does not
    assert sum(not np.array_equal(unet[n], a[n]) for n in NAMES if part(n) == "model") > 50
    assert json.loads(made.recipe)["node"]["op"] == "by_block_survey"
    assert again.out.read_bytes() == made.out.read_bytes()


@pytest.mark.parametrize("wish", [{"only": "unet"}, {"keep_vae_of": 1}, {"missing": "keep-first"}])
def test_parts_are_kept_whatever_the_statistics_lack(pair, tmp_path, wish):
    unet = [n for n in NAMES if part(n) == "model"]
    sure = [
        small.save(tmp_path / f"f{i}.safetensors", {n: v**2 for n, v in model(i, unet[:9]).items()})
        for i in (0, 1)
    ]
    wish = {k: pair[1] if v == 1 else v for k, v in wish.items()}
    plain = merge("fisher", [*pair, *sure], out=tmp_path / "plain.safetensors")

    made = merge("fisher", [*pair, *sure], **wish, out=tmp_path / "out.safetensors")

    out, whole, a, b = (bits(p) for p in (made.out, plain.out, *pair))
    for name in NAMES:
        vae = part(name) == "first_stage_model"
        if "only" in wish and part(name) != "model":
            assert out[name] == a[name]
        elif "keep_vae_of" in wish and vae:
            assert out[name] == b[name]
        else:
            assert out[name] == whole[name]


def test_fisher_weights_differ_by_block(pair, tmp_path):
    sure = [small.save(tmp_path / f"f{i}.safetensors", model(i)) for i in (0, 1)]

    made = merge("fisher", [*pair, *sure], blocks="*=1,IN*=0", out=tmp_path / "out.safetensors")

    out, a, b, labels = bits(made.out), bits(pair[0]), bits(pair[1]), block_labels(NAMES)
    for name, label in labels.items():
        assert out[name] == (a if label.startswith("IN") else b)[name]


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"base": "starter"}, "takes no base"),
        ({"method": "ties"}, "Name the common ancestor with --base"),
        ({"only": "lungs"}, "'lung': no part"),
        ({"missing": "guess"}, "takes refuse or keep-first"),
        ({"nonfinite": "hide"}, "takes refuse or allow"),
        ({"blocks": "GRAD_V", "inputs": 3}, "share of the second of two"),
        ({"method": "clamp", "inputs": 3, "blocks": "*=1"}, "no weight that could differ"),
        ({"method": "regmean", "inputs": 4, "blocks": "*=1"}, "regmean has no weight that could"),
        ({"method": "fisher", "inputs": 6, "blocks": "*=1"}, "of two checkpoints; 3 given"),
        ({"method": "slerp", "weights": [1, 2]}, "takes no weights"),
        ({"dtype": "int4"}, "dtype is 'INT4'"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(pair, tmp_path, change, text):
    inputs = (pair * 3)[: change.pop("inputs", 2)]
    method = change.pop("method", "weighted_average")

    with pytest.raises(UsageError) as caught:
        merge(method, inputs, out=tmp_path / "out.safetensors", **change)

    assert text in str(caught.value)


def test_a_part_nobody_has_is_refused(pair, tmp_path):
    names = [n for n in NAMES if part(n) == "model"]
    lone = [small.save(tmp_path / f"{i}.safetensors", model(i, names)) for i in (0, 1)]

    with pytest.raises(MismatchError, match="no vae is in these checkpoints: unet"):
        merge("weighted_average", lone, only="vae", out=tmp_path / "out.safetensors")
    with pytest.raises(MismatchError, match="has no vae to keep"):
        merge("weighted_average", pair, keep_vae_of=lone[0], out=tmp_path / "out.safetensors")


def test_part_names_are_read_in_every_usual_form():
    assert parts_named(["unet,VAE", "text_encoders"]) == ("unet", "vae", "text_encoder")
    assert parts_named(None) == ()


WORDS = ("a", "b", "ab")
DOTTED = [".".join(words) for n in (1, 2, 3) for words in product(WORDS, repeat=n)]


@settings(deadline=None)
@given(st.sets(st.sampled_from(DOTTED)), st.sets(st.sampled_from(DOTTED)))
def test_a_cover_fits_the_chosen_and_nothing_else(chosen, others):
    universe = chosen | others

    prefixes, names = cover(chosen, universe)

    assert {n for n in universe if n in names or n.startswith(tuple(prefixes))} == chosen


def test_every_method_can_take_two_checkpoints_and_has_a_line():
    found = methods()

    assert "weighted_average" in found
    assert not {"cast", "overlay", "lora_bake", "by_block"} & set(found)
    assert [n for n, op in found.items() if op.arity[1] is not None and op.arity[1] < 2] == []
    assert list(method_lines()) == list(method_names()) == list(found)
    assert [n for n, line in method_lines().items() if len(line) < 12] == []
