import pytest

from memcard.core.sizes import byte_size
from memcard.errors import UsageError


@pytest.mark.parametrize(
    ("text", "size"),
    [("5GB", 5_000_000_000), ("2GiB", 2 << 30), ("1.5 mb", 1_500_000), ("700", 700), ("3k", 3000), (9, 9)],
)  # fmt: skip
def test_sizes_as_people_write_them(text: str | int, size: int) -> None:
    assert byte_size(text) == size


@pytest.mark.parametrize("text", ["big", "-1", "5XB", "", "0.0", 0, -5, "1e400"])
def test_what_is_no_size_is_refused(text: str | int) -> None:
    with pytest.raises(UsageError, match="write it like 5GB"):
        byte_size(text)
