"""Values come back from JSON and tensors as they were; what is no plain value is refused by its path."""

import json
import math
import struct
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memcard.errors import CorruptError, UnsupportedError
from memcard.training._tree import from_bytes, names_in, pack, pack_all, spec_of, to_bytes, unpack

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn),
    *(torch.float8_e5m2, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
    *(torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64, torch.complex128),
    torch.complex32,
]
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary(max_size=20)
    | st.complex_numbers()
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"])) | st.integers(), inner, max_size=3
        )
        | st.dictionaries(st.sampled_from(["$tensor", "$float", "a", "$"]), inner, max_size=3)
    ),
    max_leaves=12,
)


def bits(value):
    """A form in which NaN equals NaN of the same bits, and 1 is not 1.0 or True."""
    if isinstance(value, float):
        return ("float", struct.pack(">d", value))
    if isinstance(value, complex):
        return ("complex", bits(value.real), bits(value.imag))
    if isinstance(value, dict):
        return (type(value), [(bits(k), bits(v)) for k, v in value.items()])
    if isinstance(value, list | tuple):
        return (type(value), [bits(item) for item in value])
    return (type(value), value)


def round_trip(value):
    packed = pack(value, "x")
    tree = json.loads(json.dumps(packed.tree, allow_nan=False))
    assert set(names_in(tree)) == set(packed.tensors)
    return unpack(tree, packed.tensors.__getitem__)


@given(values)
def test_plain_values_come_back_with_type_order_and_bits(value):
    assert bits(round_trip(value)) == bits(value)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -0.0, 5e-324, 0.1, 1 / 3])
def test_floats_keep_all_their_bits(number):
    assert struct.pack(">d", round_trip(number)) == struct.pack(">d", number)


def test_the_payload_of_a_nan_is_kept():
    odd = struct.unpack(">d", bytes.fromhex("7ff8000000abcdef"))[0]
    assert struct.pack(">d", round_trip(odd)).hex() == "7ff8000000abcdef"


@pytest.mark.parametrize(
    "value",
    [
        OrderedDict([(2, "b"), (1, "a")]),
        Counter({3: 1, 7: 2}),
        {1, 2, 3},
        frozenset({"a"}),
        torch.Size([2, 3]),
        torch.float16,
        torch.device("cuda:1"),
        bytes(range(256)) * 20,
        {"$tensor": "not one"},
        {(1, 2): {"deep": [(), [], {}]}},
    ],
)
def test_containers_and_torch_values_come_back(value):
    found = round_trip(value)

    assert type(found) is type(value)
    assert found == value


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3)], ids=str)
def test_tensors_of_every_dtype_and_shape_come_back(dtype, shape):
    size = math.prod(shape) * dtype.itemsize
    raw = torch.tensor(
        [i * 37 % 2 if dtype == torch.bool else i * 37 % 251 for i in range(size)],
        dtype=torch.uint8,
    )
    value = raw.view(dtype).reshape(shape)

    packed = pack(value, "w")
    found = unpack(packed.tree, packed.tensors.__getitem__)

    assert (found.dtype, found.shape) == (value.dtype, value.shape)
    assert bytes(found.reshape(-1).view(torch.uint8).tolist() if size else b"") == bytes(
        raw.tolist()
    )
    assert spec_of(packed.tensors["w"]).nbytes == size


@pytest.mark.parametrize(
    "value",
    [
        np.arange(6, dtype=np.uint32).reshape(2, 3),
        np.zeros((0, 2), np.float16),
        np.arange(3000, dtype=">i4"),
        np.float32(1.5),
        np.int64(-7),
        np.bool_(True),
        np.array(3.0),
    ],
    ids=repr,
)
def test_numpy_arrays_and_scalars_come_back(value):
    found = round_trip(value)

    assert type(found) is type(value)
    assert found.dtype == value.dtype.newbyteorder("<")
    np.testing.assert_array_equal(found, value)


def test_shared_memory_is_stored_once_and_stays_shared():
    weight = torch.randn(3, 3)
    packed = pack({"in": weight, "out": weight, "turned": weight.T, "part": weight[:1]}, "m")

    found = unpack(packed.tree, packed.tensors.__getitem__)

    assert list(packed.tensors) == ["m.in", "m.turned", "m.part"]
    assert found["in"] is found["out"]


def test_empty_tensors_are_not_taken_for_one():
    packed = pack([torch.empty(0), torch.empty(0, dtype=torch.int8)], "e")
    assert list(packed.tensors) == ["e.0", "e.1"]


def test_keys_with_dots_do_not_collide():
    one, two = torch.zeros(1), torch.ones(1)
    packed = pack({"a.b": one, "a": {"b": two}}, "m")

    found = unpack(packed.tree, packed.tensors.__getitem__)

    assert list(packed.tensors) == ["m.a.b", "m.a.b~2"]
    assert (found["a.b"].item(), found["a"]["b"].item()) == (0, 1)


class Odd:
    pass


class Sub(dict):
    pass


def test_what_is_no_plain_value_is_refused_with_all_paths():
    value = {
        "a": [1, Odd()],
        "b": {"c": lambda: 0},
        "d": Sub(),
        "e": defaultdict(int),
        "f": range(3),
    }

    with pytest.raises(UnsupportedError) as caught:
        pack(value, "extra")

    faults = " ".join(caught.value.faults)
    assert len(caught.value.faults) == 5
    for path in ("extra.a.1", "extra.b.c", "extra.d", "extra.e", "extra.f"):
        assert path in faults
    assert "Odd" in faults


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (torch.eye(2).to_sparse(), "layout"),
        (torch.empty(2, device="meta"), "meta"),
        (np.array(["text"]), "numpy"),
    ],
)
def test_tensors_without_plain_bytes_are_refused(tensor, why):
    with pytest.raises(UnsupportedError, match=why):
        pack({"w": tensor})


def test_a_value_that_contains_itself_is_refused():
    loop = []
    loop.append(loop)
    with pytest.raises(UnsupportedError, match="itself"):
        pack(loop)


@pytest.mark.parametrize(
    "tree",
    [
        {"$call": "os.system"},
        {"$float": "zz"},
        {"$tensor": "nowhere"},
        {"$dtype": "load"},
        {"$numpy": {}},
        {"$dict": [[[], 1]]},
        {"$bytes": "*"},
    ],
)
def test_a_tree_that_breaks_the_rules_is_refused(tree):
    with pytest.raises(CorruptError, match="does not know"):
        unpack([tree], {}.__getitem__)


def test_complex_numbers_may_begin_anywhere_in_a_file():
    """Torch ends the process where complex128 begins at no multiple of 16."""
    raw = torch.zeros(64, dtype=torch.uint8)
    begin = -raw.data_ptr() % 16 + 8
    pairs = raw[begin : begin + 32].view(torch.float64).view(2, 2)
    pairs[1, 1] = 3

    found = unpack({"$tensor": "z", "as": "C128"}, {"z": pairs}.__getitem__)

    assert (found * 1).tolist() == [0, 3j]


def test_several_values_share_tensors_but_not_names():
    weight = torch.ones(2)
    packed = pack_all([("model", {"w": weight}), ("ema", {"w": weight, "v": torch.zeros(1)})])

    assert list(packed.tensors) == ["model.w", "ema.v"]
    assert packed.tree[1]["w"] == {"$tensor": "model.w"}


def test_small_values_travel_as_bytes():
    value = {
        "epoch": 3,
        "state": torch.arange(5),
        "empty": torch.empty(0),
        "half": torch.ones(2).bfloat16(),
    }

    found = from_bytes(to_bytes(value, "feed"))

    assert found["epoch"] == 3
    assert torch.equal(found["state"], value["state"])
    assert found["half"].dtype == torch.bfloat16
    assert found["empty"].numel() == 0
