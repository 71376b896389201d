"""The page on reliability tells of every kind of fault that the tests inject, with the count of a whole run."""

from __future__ import annotations

import re
from pathlib import Path

from faults.program import KINDS

HERE = Path(__file__).parent
PAGE = HERE.parent.parent / "docs" / "reliability.md"
LEAST = {"flipped bit": 2000, "killed": 500, "power cut": 1000, "rounds of five processes": 1000}


def rows() -> dict[str, tuple[int, str]]:
    """Return each fault with its count and its test."""
    found = {}
    for line in PAGE.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) == 6 and re.fullmatch(r"[\d,]+", cells[2]):
            found[cells[1]] = int(cells[2].replace(",", "")), cells[4].strip("`")
    return found


def test_every_kind_is_told_with_its_count_and_its_test() -> None:
    told = rows()

    assert list(told) == [what for what, _, _ in KINDS.values()]
    for kind, (what, _, test) in KINDS.items():
        count, named = told[what]
        assert count >= LEAST.get(kind, 1), kind
        assert named == test
        assert f'"{kind}"' in "".join(path.read_text() for path in HERE.glob("test_*.py")), kind


def test_the_sum_is_right() -> None:
    (total,) = re.findall(r"^([\d,]+) in all\.$", PAGE.read_text("utf-8"), re.MULTILINE)

    assert int(total.replace(",", "")) == sum(count for count, _ in rows().values())
