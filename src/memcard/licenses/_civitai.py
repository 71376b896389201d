"""The four permissions of Civitai, put together as one license.

They stand beside the license of the base model, which holds as well. A permission that is missing is unknown;
other tools take it for granted.

Source: https://github.com/civitai/civitai, src/components/PermissionIndicator/PermissionIndicator.tsx and
issue 4862 (selling merges, ``SellMerge``, was split from ``Sell`` in 2026).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, TypeAlias

from memcard.core.license import Duty, License, Term, Use
from memcard.errors import UsageError
from memcard.licenses._rail import FITS
from memcard.licenses._terms import credit, no, provided, unclear, yes

PREFIX: Final = "civitai:"
KEYS: Final = ("allowNoCredit", "allowCommercialUse", "allowDerivatives", "allowDifferentLicense")
_USES: Final = ("Image", "RentCivit", "Rent", "Sell", "SellMerge")
# Before 2024 the field was one word, and each implied those before it.
_LADDER: Final = ("None", "Image", "RentCivit", "Rent", "Sell")
_Uses: TypeAlias = Mapping[str, bool] | None
_WORDS: Final = (("credit", "nocredit"), ("nomerges", "merges"), ("same", "different"))
_SOURCE: Final = "https://github.com/civitai/civitai (PermissionIndicator.tsx)"
_OLD: Final = "A single word may stand for those before it, as in files of before 2024."
_MISSING: Final = "This permission is not given beside the file; see the page of the model."


def from_flags(flags: Mapping[str, Any]) -> License:
    """Return the license of a model's flags as Civitai's API writes them; what is missing is unknown."""
    booleans = [_boolean(flags.get(key)) for key in (KEYS[0], *KEYS[2:])]
    return _license(_uses(flags.get("allowCommercialUse")), *booleans)


def from_id(text: str) -> License:
    """Return the license of an id such as ``civitai:Image+Rent,credit,merges,same``.

    Words left out are unknown; so is a use with a ``?`` behind it.

    Raises:
        UsageError: a word is none of these.
    """
    booleans: list[bool | None] = [None, None, None]
    uses: _Uses = None
    for word in filter(None, text.removeprefix(PREFIX).split(",")):
        pair = next((i for i, pair in enumerate(_WORDS) if word in pair), None)
        listed = {use.removesuffix("?"): not use.endswith("?") for use in word.split("+")}
        if pair is not None:
            booleans[pair] = word == _WORDS[pair][1]
        elif word == "None" or set(listed) <= set(_USES):
            uses = {use: sure for use, sure in listed.items() if use != "None"}
        elif word != "?":
            raise UsageError(
                f"{text}: {word!r} is no permission of Civitai. Write for example "
                "civitai:Image+RentCivit+Rent+Sell,nocredit,merges,different; instead of the first "
                "word None, and credit, nomerges, same for the others."
            )
    return _license(uses, *booleans)


def _uses(value: Any) -> _Uses:
    """Return the uses, and whether each is sure; None if nothing is said."""
    if isinstance(value, str) and value in _LADDER:
        return dict.fromkeys(_LADDER[1 : _LADDER.index(value) + 1], True)
    if isinstance(value, str) and re.fullmatch(
        r"\{[A-Za-z,]*\}", value
    ):  # as PostgreSQL prints arrays
        value = value[1:-1].split(",")
    if not isinstance(value, (list, tuple)) or not all(isinstance(item, str) for item in value):
        return None
    known = [item for item in value if item not in ("None", "")]
    if not set(known) <= set(_USES):
        return None
    if len(known) == 1 and known[0] in _LADDER:
        # Readers of old files make a list of the one word, so it may stand for those before it too.
        return {**dict.fromkeys(_LADDER[1 : _LADDER.index(known[0])], False), known[0]: True}
    return dict.fromkeys(known, True)


def _boolean(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


def _license(
    uses: _Uses, no_credit: bool | None, merges: bool | None, different: bool | None
) -> License:
    flags = (no_credit, merges, different)
    words = [pair[flag] for pair, flag in zip(_WORDS, flags, strict=True) if flag is not None]
    listed = [u + "?" * (not uses[u]) for u in _USES if u in uses] if uses else []
    sold = "?" if uses is None else "+".join(listed) or "None"
    id_ = PREFIX + ",".join([sold, *words])
    loose = uses is not None and all(map(uses.get, ("Image", "Rent", "Sell"))) and all(flags)
    known = uses is not None and all(uses.values()) and None not in flags
    return License(
        id=id_,
        title="Permissions on Civitai",
        version="permissions of 2026",
        source=_SOURCE,
        terms=_terms(uses, merges, different),
        duties=_duties(no_credit, different),
        derivatives="any" if loose else "carry" if known else "unknown",
        compatible=FITS,
        seal=id_ if different is False else "",
    )


def _terms(uses: _Uses, merges: bool | None, different: bool | None) -> Mapping[Use, Term]:
    silent = "The permissions do not speak of it; the license of the base model does."
    return {
        "commercial": _sale(uses, "Image", "selling pictures"),
        "share": unclear(silent, ""),
        "merge": _merge(merges, different),
        "train": unclear(silent, ""),
        "host": _sale(uses, "Rent", "paid services other than Civitai's"),
        "sell": _sell(uses),
    }


def _sale(uses: _Uses, flag: str, what: str) -> Term:
    if uses is None:
        return unclear(_MISSING, "allowCommercialUse")
    if uses.get(flag) is False:
        return unclear(_OLD, "allowCommercialUse")
    if flag in uses:
        return yes(f"The author allows {what}.", f"allowCommercialUse: {flag}")
    return no(f"The author does not allow {what}.", f"allowCommercialUse without {flag}")


def _sell(uses: _Uses) -> Term:
    if uses and "Sell" in uses and "SellMerge" not in uses:
        both = (
            "it is the model itself; for a merge see its page, as that is asked apart since 2026."
        )
        return provided(both, "allowCommercialUse: Sell")
    if uses and "Sell" not in uses and "SellMerge" in uses:
        return provided("it is a merge and not the model itself.", "allowCommercialUse: SellMerge")
    return _sale(uses, "Sell", "selling the model or merges")


def _merge(merges: bool | None, different: bool | None) -> Term:
    if merges is None:
        return unclear(_MISSING, "allowDerivatives")
    if not merges:
        return no("The author does not allow to share merges.", "allowDerivatives: false")
    if different is None:
        return provided(
            "the page of the model asks for no same permissions.", "allowDifferentLicense"
        )
    if not different:
        return provided("merges have the same permissions.", "allowDifferentLicense: false")
    return yes("The author allows it, also under other permissions.", "allowDerivatives: true")


def _duties(no_credit: bool | None, different: bool | None) -> tuple[Duty, ...]:
    found = []
    if no_credit is not True:
        says = "Credit the creator." if no_credit is False else "Credit the creator, to be safe."
        found.append(credit("allowNoCredit", says))
    if different is False:
        says = "Give merges the same permissions."
        found.append(Duty("share-alike", says, "allowDifferentLicense: false"))
    return tuple(found)
