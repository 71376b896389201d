"""What the Creative Commons licenses, version 4.0, have in common; they are made of four elements.

The letters in section 1 differ from license to license, so definitions are cited by the word they define.
Whether a model is "adapted material" of what it was trained on, and a picture of the model, is disputed;
see docs/license.md for what is assumed.

Source: https://creativecommons.org/licenses/by-nc-sa/4.0/legalcode.en and its five siblings.
"""

from __future__ import annotations

from collections.abc import Mapping

from memcard.core.license import Duty, License, Term, Use
from memcard.licenses._terms import changes, credit, no, non_commercial, notice, provided, yes

_GRANT = "2(a)(1)"
_CREDIT = "3(a)(1)"


def creative_commons(
    elements: str, *, compatible: tuple[str, ...] = (), bases: tuple[str, ...] = ()
) -> License:
    """Return the license of these elements: ``by``, ``by-nc-sa`` and so on.

    Args:
        elements: joined by hyphens, in the order Creative Commons writes them.
        compatible: see ``License``.
        bases: see ``License``.
    """
    parts = elements.split("-")
    upper, words = f"CC-{elements.upper()}-4.0", _words(parts)
    return License(
        id=f"cc-{elements}-4.0",
        title=f"Creative Commons {words} 4.0 International",
        version="4.0",
        source=f"https://creativecommons.org/licenses/{elements}/4.0/legalcode.en",
        spdx=upper,
        terms=_terms("nc" in parts, "nd" in parts, "sa" in parts),
        duties=_duties(parts),
        derivatives="same" if "sa" in parts else "carry" if len(parts) > 1 else "any",
        compatible=compatible,
        names=(f"cc {elements} 4.0", f"creative commons {words} 4.0", f"creative commons {words} 4.0 international"),
        vague=(f"cc {elements}", f"creative commons {words}"),
        links=(f"creativecommons.org/licenses/{elements}/4.0",),
        bases=bases,
    )  # fmt: skip


def _words(parts: list[str]) -> str:
    words = {"by": "Attribution", "nc": "NonCommercial", "sa": "ShareAlike", "nd": "NoDerivatives"}
    return "-".join(words[part] for part in parts)


def _terms(nc: bool, nd: bool, sa: bool) -> Mapping[Use, Term]:
    if nc:
        where = f"1 (NonCommercial), {_GRANT}"
        money = no("The license is for non-commercial purposes only.", where)
        train = provided("the training is not for commercial advantage either.", where)
        share = provided("it is not for commercial advantage, and you credit the author.", f"{_GRANT}, {_CREDIT}")  # fmt: skip
        host, sell = money, money
    else:
        money = yes("Use for any purpose is granted; pictures do not contain the model.", _GRANT)
        train = money
        share = sell = provided("you credit the author.", _CREDIT)
        host = yes("Use for any purpose is granted.", _GRANT)
    return {
        "commercial": money,
        "share": share,
        "merge": _merge(nc, nd, sa),
        "train": train,
        "host": host,
        "sell": sell,
    }


def _merge(nc: bool, nd: bool, sa: bool) -> Term:
    if nd:
        return no("You may make changes for yourself, and may not share them.", "2(a)(1)(B)")
    conditions = ["you credit the author and say what you changed"]
    conditions += ["it is not for commercial advantage"] if nc else []
    conditions += ["the result is under this same license"] if sa else []
    where = ", ".join([_CREDIT, *(["3(b)"] if sa else [])])
    return provided(f"{', '.join(conditions)}.", where)


def _duties(parts: list[str]) -> tuple[Duty, ...]:
    found = [credit(_CREDIT), notice("3(a)(1)(C)", "Name the license and link to it.")]
    if "nd" in parts:
        found.append(Duty("no derivatives", "Share nothing made of it.", "2(a)(1)(B)"))
    else:
        found.append(changes("3(a)(1)(B)"))
    if "nc" in parts:
        found.append(non_commercial(f"1 (NonCommercial), {_GRANT}"))
    if "sa" in parts:
        says = "Put what you make of it under the same license, and add no terms."
        found.append(Duty("share-alike", says, "3(b)"))
    return tuple(found)
