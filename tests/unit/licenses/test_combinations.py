"""The license of a merge: a table of verdicts, each with its source, and what holds for all licenses."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from memcard.core.license import STRICTNESS, USES, Parent
from memcard.core.verdict import combine
from memcard.errors import LicenseError, UsageError
from memcard.licenses import LICENSES, by_id, of_flags

TABLE = yaml.safe_load((Path(__file__).parent / "combinations.yaml").read_text("utf-8"))
LETTERS = {"y": "yes", "i": "if", "u": "unknown", "n": "no"}
FLAGS = st.fixed_dictionaries(
    {},
    optional={
        "allowNoCredit": st.booleans(),
        "allowCommercialUse": st.lists(st.sampled_from(["Image", "RentCivit", "Rent", "Sell", "SellMerge"]), unique=True),
        "allowDerivatives": st.booleans(),
        "allowDifferentLicense": st.booleans(),
    },
)  # fmt: skip
PARENTS = st.builds(
    Parent,
    name=st.sampled_from("abcdef"),
    license=st.sampled_from(list(LICENSES.values())) | FLAGS.map(of_flags),
    role=st.sampled_from(["itself", "model", "data"]),
)
SEVERAL = st.lists(PARENTS, min_size=1, max_size=6)


def parents_of(row: dict[str, Any]) -> list[Parent]:
    roles = {"parents": "model", "data": "data", "itself": "itself"}
    return [
        Parent(f"{id_} ({role})", by_id(id_), role)  # type: ignore[arg-type]
        for key, role in roles.items()
        for id_ in row.get(key, [])
    ]


def named(row: dict[str, Any]) -> str:
    return "+".join(parent.name for parent in parents_of(row))


def test_the_table_is_large_and_every_row_has_its_source() -> None:
    assert len(TABLE) >= 40
    assert [named(row) for row in TABLE if not row.get("source")] == []
    assert len({named(row) for row in TABLE}) == len(TABLE)


@pytest.mark.parametrize("row", TABLE, ids=named)
def test_each_combination_has_the_expected_verdict(row: dict[str, Any]) -> None:
    verdict = combine(parents_of(row))

    expected = dict(zip(USES, map(LETTERS.get, row["answers"].split()), strict=True))
    assert {use: verdict.answer(use) for use in USES} == expected
    assert [conflict.kind for conflict in verdict.conflicts] == row.get("conflict", [])
    assert verdict.license == row.get("license", verdict.license)


@given(SEVERAL, st.randoms(use_true_random=False))
def test_the_order_of_parents_does_not_matter(parents: list[Parent], random: Any) -> None:
    shuffled = parents.copy()
    random.shuffle(shuffled)

    assert combine(shuffled) == combine(parents)


@given(SEVERAL, PARENTS)
def test_one_more_parent_never_makes_an_answer_looser(parents: list[Parent], more: Parent) -> None:
    before, after = combine(parents), combine([*parents, more])

    looser = [
        use
        for use in USES
        if STRICTNESS.index(after.answer(use)) < STRICTNESS.index(before.answer(use))
    ]
    assert looser == []
    assert {owed.duty for owed in before.duties} <= {owed.duty for owed in after.duties}


@given(SEVERAL)
def test_naming_parents_twice_changes_nothing(parents: list[Parent]) -> None:
    assert combine([*parents, *parents]) == combine(parents)
    assert combine(combine(parents).parents) == combine(parents)


@given(SEVERAL)
def test_unknown_stays_unknown_and_a_no_stays_a_no(parents: list[Parent]) -> None:
    verdict = combine(parents)

    for use in USES:
        # to share what was made of a parent is to share a derivative of it
        asked = [(p, "merge" if use == "share" and p.role != "itself" else use) for p in parents]
        said = {parent.license.terms[question].answer for parent, question in asked}
        if "no" in said:
            assert verdict.answer(use) == "no"
        elif "unknown" in said:
            assert verdict.answer(use) in ("unknown", "no")


@given(SEVERAL)
def test_every_answer_names_a_parent_or_a_conflict_that_decides_it(parents: list[Parent]) -> None:
    verdict = combine(parents)

    for ruling in verdict.rulings.values():
        assert ruling.deciding
        assert ruling.reasons[0] in ruling.deciding
        assert all(reason.why for reason in ruling.reasons)


def test_a_conflict_names_the_parents_that_cause_it_and_no_other() -> None:
    verdict = combine(
        [
            Parent("photos", by_id("cc-by-sa-4.0"), "data"),
            Parent("base", by_id("mit")),
            Parent("style", by_id("cc-by-nc-sa-4.0")),
        ]
    )

    (conflict,) = verdict.conflicts
    assert conflict.parents == ("photos", "style")
    assert "cc-by-sa-4.0 and cc-by-nc-sa-4.0" in conflict.says
    assert verdict.rulings["share"].deciding[0].parent == "photos and style"


def test_a_promise_is_told_with_what_it_promises_too_much() -> None:
    verdict = combine(
        [Parent("upload", by_id("mit"), "itself"), Parent("upstream", by_id("cc-by-nc-4.0"))]
    )

    (conflict,) = verdict.conflicts
    assert conflict.parents == ("upload", "upstream")
    assert "sell pictures made with it, run it as a paid service, sell the file" in conflict.says


def test_duties_are_listed_once_with_all_who_ask_for_them() -> None:
    verdict = combine([Parent("a", by_id("mit")), Parent("b", by_id("mit"))])

    assert [(owed.duty.kind, owed.license, owed.parents) for owed in verdict.duties] == [
        ("notice", "mit", ("a", "b"))
    ]


def test_require_raises_only_for_no_and_unknown_and_says_who() -> None:
    free = combine([Parent("a", by_id("openrail++"))])
    bound = combine([Parent("a", by_id("openrail++")), Parent("b", by_id("cc-by-nc-4.0"))])

    free.require("commercial")
    with pytest.raises(LicenseError, match=r"No\. b \(cc-by-nc-4\.0\)"):
        bound.require("commercial")
    with pytest.raises(LicenseError, match="Unknown"):
        combine([Parent("c", by_id("unknown"))]).require("share")


def test_nothing_cannot_be_combined() -> None:
    with pytest.raises(UsageError, match="at least one"):
        combine([])
