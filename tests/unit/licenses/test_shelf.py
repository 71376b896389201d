"""Every entry of the shelf is whole, and is found by every name it gives itself."""

import re

import pytest

from memcard.core.license import USES, License
from memcard.errors import NotFoundError, UsageError
from memcard.licenses import LICENSES, by_id, find, of_base, of_flags, plain

NEEDED = """
    apache-2.0 mit bsd-3-clause cc0-1.0 cc-by-4.0 cc-by-sa-4.0 cc-by-nc-4.0 cc-by-nc-sa-4.0 cc-by-nd-4.0
    cc-by-nc-nd-4.0 creativeml-openrail-m openrail++ bigscience-openrail-m sai-nc-research
    stabilityai-ai-community flux-1-dev-1.0 flux-1-dev-1.1.1 fair-ai-public-1.0-sd playground-v2.5-community
    tencent-hunyuan-community kolors gemma llama3 gpl-3.0 agpl-3.0 wtfpl unlicense deepfloyd-if-license
    unknown all-rights-reserved
"""
FREE = {"cc0-1.0", "unlicense", "wtfpl", "unknown", "all-rights-reserved"}  # ask for nothing


def ids(texts: str) -> tuple[str, ...]:
    return tuple(license_.id for license_ in find(texts).licenses)


@pytest.mark.parametrize("name", LICENSES)
def test_an_entry_answers_every_question_with_a_section_and_a_source(name: str) -> None:
    entry = LICENSES[name]

    assert set(entry.terms) == set(USES)
    assert all(term.why.endswith(".") for term in entry.terms.values())
    assert all(term.where for term in entry.terms.values() if term.answer != "unknown")
    assert all(duty.says.endswith(".") and duty.where for duty in entry.duties)
    assert bool(entry.duties) == (entry.id not in FREE)
    assert entry.version
    assert entry.source.startswith(("https://", "http://")) or entry.id == "unknown"


@pytest.mark.parametrize("name", LICENSES)
def test_the_file_name_is_the_id(name: str) -> None:
    id_ = LICENSES[name].id

    assert name == ("openrail_pp" if id_ == "openrail++" else re.sub(r"[-.]", "_", id_))


@pytest.mark.parametrize("name", LICENSES)
def test_a_license_is_found_by_all_it_calls_itself(name: str) -> None:
    entry = LICENSES[name]

    for text in (entry.id, entry.title, entry.spdx or entry.id, *entry.names):
        assert find(text).licenses == (entry,), text
        assert find(text).note == "", text
    for text in entry.vague:
        assert find(text).licenses == (entry,), text
        assert "names no version" in find(text).note
    for link in (*entry.links, *([entry.source] if entry.id != "unknown" else [])):
        assert find(link if "://" in link else f"https://{link}").licenses == (entry,), link


@pytest.mark.parametrize("name", LICENSES)
def test_what_a_license_is_compatible_with_exists(name: str) -> None:
    for id_ in LICENSES[name].compatible:
        assert by_id(id_).derivatives == "same"


def test_no_name_link_or_base_stands_for_two_licenses() -> None:
    for fields in (("names", "vague"), ("links",), ("bases",)):
        claimed: dict[str, str] = {}
        for entry in LICENSES.values():
            for text in (text for field in fields for text in getattr(entry, field)):
                assert claimed.setdefault(plain(text), entry.id) == entry.id, text


def test_all_licenses_of_the_field_are_there() -> None:
    assert {entry.id for entry in LICENSES.values()} >= set(NEEDED.split())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Apache-2.0", "apache-2.0"),
        ("  apache   2.0 license ", "apache-2.0"),
        ("CC BY-NC-SA 4.0", "cc-by-nc-sa-4.0"),
        ("https://creativecommons.org/licenses/by-nc-sa/4.0/", "cc-by-nc-sa-4.0"),
        ("http://creativecommons.org/licenses/by/4.0/deed.de", "cc-by-4.0"),
        ("CC0", "cc0-1.0"),
        ("GPL-3.0-or-later", "gpl-3.0"),
        ("CreativeML Open RAIL++-M License", "openrail++"),
        ("CreativeML Open RAIL-M", "creativeml-openrail-m"),
        ("stable-video-diffusion-community", "stabilityai-ai-community"),
        ("https://freedevproject.org/faipl-1.0-sd/", "fair-ai-public-1.0-sd"),
        ("Fair AI Public License 1.0-SD (https://freedevproject.org/faipl-1.0-sd/)", "fair-ai-public-1.0-sd"),
        ("llama3.1", "llama3.1"),
    ],
)  # fmt: skip
def test_names_as_people_write_them_are_understood(text: str, expected: str) -> None:
    assert ids(text) == (expected,)


@pytest.mark.parametrize(
    "text",
    [
        "Apache-2.0, but no commercial use",
        "not MIT",
        "cc-by-3.0",
        "MIT OR Apache-2.0",
        "https://example.com/license",
        "CreativeML Open RAIL-M https://creativecommons.org/licenses/by/4.0/",
        "Modified MIT (https://opensource.org/license/mit)",
        "MIT License\n\nCopyright (c) 2020 Someone\n\n" + "Permission is hereby granted. " * 20,
    ],
)
def test_what_is_not_quite_a_name_stays_unknown_and_is_quoted(text: str) -> None:
    found = find(text)

    assert [license_.id for license_ in found.licenses] == ["unknown"]
    assert text[:10] in found.note


def test_a_name_without_version_is_read_as_the_stricter_text_and_says_so() -> None:
    found = find("flux-1-dev-non-commercial-license")

    assert found.licenses[0].id == "flux-1-dev-1.0"
    assert "August 2024" in found.note


def test_licenses_joined_by_and_all_hold() -> None:
    assert ids("apache-2.0 AND cc-by-4.0") == ("apache-2.0", "cc-by-4.0")
    assert ids("apache-2.0 AND whatever") == ("apache-2.0", "unknown")


def test_an_id_that_nobody_has_is_refused_with_those_there_are() -> None:
    with pytest.raises(NotFoundError, match=r"no license 'apache-9'.*openrail\+\+"):
        by_id("apache-9")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("SDXL 1.0", "openrail++"),
        ("sd_xl_base_1.0", "openrail++"),
        ("stabilityai/stable-diffusion-3.5-large", "stabilityai-ai-community"),
        ("v1-5-pruned-emaonly", "creativeml-openrail-m"),
        ("Flux.1 S", "apache-2.0"),
        ("Illustrious", "fair-ai-public-1.0-sd"),
    ],
)
def test_well_known_bases_have_the_license_they_were_published_under(
    name: str, expected: str
) -> None:
    base = of_base(name)

    assert isinstance(base, License)
    assert base.id == expected
    assert of_base(f"my {name} tune") is None


def flags(use: object, *others: bool | None) -> License:
    keys = ("allowNoCredit", "allowDerivatives", "allowDifferentLicense")
    return of_flags({"allowCommercialUse": use, **dict(zip(keys, others, strict=True))})


@pytest.mark.parametrize(
    ("use", "sell_pictures", "service", "sell_file"),
    [
        (["Image", "RentCivit", "Rent", "Sell"], "yes", "yes", "if"),
        (["Image", "Rent", "Sell", "SellMerge"], "yes", "yes", "yes"),
        (["Image", "RentCivit"], "yes", "no", "no"),
        (["RentCivit"], "unknown", "no", "no"),  # may be an old file's word made into a list
        (("Sell",), "unknown", "unknown", "if"),
        (["RentCivit", "Rent"], "no", "yes", "no"),
        (["None"], "no", "no", "no"),
        ([], "no", "no", "no"),
        ("Sell", "yes", "yes", "if"),  # one word implied all before it
        ("RentCivit", "yes", "no", "no"),
        ("{Image,Rent}", "yes", "yes", "no"),
        (["SellMerge"], "no", "no", "if"),
        (None, "unknown", "unknown", "unknown"),
        (["Image", "Teleport"], "unknown", "unknown", "unknown"),
        (7, "unknown", "unknown", "unknown"),
    ],
)
def test_flags_of_civitai_in_all_their_forms(
    use: object, sell_pictures: str, service: str, sell_file: str
) -> None:
    terms = flags(use, True, True, True).terms

    assert [terms[name].answer for name in ("commercial", "host", "sell")] == [
        *(sell_pictures, service, sell_file)
    ]


def test_a_missing_flag_is_unknown_and_not_a_permission() -> None:
    terms = of_flags({"allowCommercialUse": ["Image"]}).terms

    assert terms["merge"].answer == "unknown"
    assert "allowDerivatives" in terms["merge"].where
    assert of_flags({}).derivatives == "unknown"


def test_merges_credit_and_same_permissions() -> None:
    bound, free = flags(["Image"], False, True, False), flags(["Image"], True, True, True)

    assert [duty.kind for duty in bound.duties] == ["attribution", "share-alike"]
    assert bound.seal == bound.id == "civitai:Image,credit,merges,same"
    assert (bound.terms["merge"].answer, free.terms["merge"].answer) == ("if", "yes")
    assert flags(["Image"], True, False, True).terms["merge"].answer == "no"
    assert (free.duties, free.seal) == ((), "")


@pytest.mark.parametrize("use", [["Image", "Sell"], ["Sell"], [], None])
@pytest.mark.parametrize("other", [True, False, None])
def test_the_id_of_flags_can_be_written_down_and_read_again(
    use: object, other: bool | None
) -> None:
    made = flags(use, other, True, other)

    assert by_id(made.id) == made
    assert find(made.id).licenses == (made,)


def test_a_wrong_word_in_an_id_of_flags_is_named() -> None:
    with pytest.raises(UsageError, match="'teleport'"):
        by_id("civitai:Image,teleport")
    assert ids("civitai:Image,teleport") == ("unknown",)
