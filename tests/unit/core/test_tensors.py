import pytest

from memcard.core.tensors import DTYPES, Spec


@pytest.mark.parametrize(
    ("dtype", "shape", "nbytes"),
    [
        ("F32", (2, 3), 24),
        ("BF16", (5,), 10),
        ("F8_E4M3", (7,), 7),
        ("F4", (4, 2), 4),
        ("F6_E2M3", (4,), 3),
        ("C128", (1,), 16),
        ("F16", (), 2),
        ("F16", (0, 9), 0),
    ],
)
def test_size_follows_dtype_and_shape(dtype: str, shape: tuple[int, ...], nbytes: int) -> None:
    assert Spec(DTYPES[dtype], shape).nbytes == nbytes


def test_sizes_of_common_dtypes_equal_those_of_the_safetensors_library() -> None:
    from safetensors.torch import _SIZE, _TYPES

    ours = {name: DTYPES[name].block_bytes for name in _TYPES if DTYPES[name].block == 1}

    assert ours == {name: _SIZE[_TYPES[name]] for name in ours}
    assert len(ours) >= 15


def test_a_spec_reads_like_a_person_would_write_it() -> None:
    assert str(Spec(DTYPES["F16"], (320, 4, 3, 3))) == "F16 [320, 4, 3, 3]"
