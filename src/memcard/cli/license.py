"""memcard license: what may be done with a checkpoint, and who says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from memcard.cli import _show

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from memcard.core.license import Answer, Parent, Use
    from memcard.core.verdict import Owed, Reason, Verdict
    from memcard.jobs.license import LicenseReport

# The uses stand here too, so that --help imports no job; tests/unit/jobs/test_license.py compares.
USES = ("commercial", "share", "merge", "train", "host", "sell")
_COLORS = {"yes": "green", "if": "green", "unknown": "yellow", "no": "red"}
_WORDS = {"if": "yes, if"}
_WIDE = 7  # letters of the longest answer
_NAMED = 2  # who decides an answer; the reasons below name all
_ADVICE = (
    "Not legal advice: read the licenses named above; the guide on licenses says what is assumed."
)


class Given(click.ParamType[tuple[str, str]]):
    """``FILE=LICENSE``."""

    name = "FILE=LICENSE"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, str]:
        """Split at the last equals sign."""
        if isinstance(value, tuple):
            return value
        name, _, license_ = value.rpartition("=")
        if not name or not license_:
            self.fail(
                f"{value!r} is not FILE=LICENSE; write it like a.safetensors=mit.", param, ctx
            )
        return name, license_


@click.command(
    epilog=_show.examples(
        "memcard license model.safetensors",
        "memcard license merged.safetensors --for commercial",
        "memcard license a.safetensors b.safetensors --together --for share",
        "memcard license merged.safetensors --license base.safetensors=openrail++",
        "memcard license model.safetensors --json | jq .answers.commercial",
    )
)
@click.argument("refs", nargs=-1, required=True)
@click.option(
    "--for",
    "use",
    type=click.Choice(USES),
    help="One question only: sell pictures (commercial), give the file away (share), share merges (merge), "
    "train on its pictures (train), run a paid service (host), sell the file (sell).",
)
@click.option(
    "--together", is_flag=True, help="Answer for a merge of all REFS, which need not exist."
)
@click.option(
    "--license", "given", multiple=True, type=Given(), help="What you know the license of a file or parent to be."
)  # fmt: skip
@_show.json_option
def command(
    refs: tuple[str, ...],
    use: Use | None,
    together: bool,
    given: tuple[tuple[str, str], ...],
    as_json: bool,
) -> int:
    """Say what may be done with checkpoints, and by whose license.

    Reads what a file says of itself, the files beside it, and the parents of a merge as far as they are at hand.
    With --for the exit code is 0 for yes and yes, if; 1 for no and unknown. Not legal advice.
    """
    from memcard.jobs.license import license_of, license_of_merge

    with _show.progress() as progress:
        known = dict(given)
        if together:
            reports = [license_of_merge(refs, given=known, progress=progress)]
        else:
            reports = [license_of(ref, given=known, progress=progress) for ref in refs]
    if as_json:
        facts = [_chosen(report, use) for report in reports]
        _show.print_json(facts[0] if len(facts) == 1 else facts)
    else:
        for i, report in enumerate(reports):
            click.echo(nl=i > 0)
            _print(report, use)
        _show.advise(_ADVICE)
    answers = [report.verdict.answer(use) for report in reports] if use else []
    return 0 if all(answer in ("yes", "if") for answer in answers) else 1


def _chosen(report: LicenseReport, use: Use | None) -> dict[str, Any]:
    """Return the facts, with ``answers`` cut down to the question that was asked."""
    facts = report.to_dict()
    return facts if use is None else {**facts, "answers": {use: facts["answers"][use]}}


def _print(report: LicenseReport, use: Use | None) -> None:
    verdict = report.verdict
    click.echo(
        click.style(_show.clean(report.ref), bold=True) + _show.clean(f": {verdict.license}")
    )
    if use is None:
        _answers(verdict)
    else:
        _one_answer(verdict, use)
    if use is None or verdict.answer(use) in ("yes", "if"):
        _section("in return", [_duty(owed) for owed in verdict.duties])
    _section("conflicts", [f"{', '.join(c.parents)}: {c.says}" for c in verdict.conflicts])
    _section("read from", [_read(parent) for parent in verdict.parents])
    _section("sources", _sources(verdict))
    _section("notes", report.notes)


def _answers(verdict: Verdict) -> None:
    """Print the table of answers with who decides each, then the reasons."""
    from memcard.core.license import USES as QUESTIONS

    width = max(map(len, QUESTIONS.values())) + 1
    click.echo(f"\n{'may I':{width}}  answer   decided by")
    for use, ruling in verdict.rulings.items():
        who = list(dict.fromkeys(f"{r.parent} ({r.license})" for r in ruling.deciding))
        more = f" and {len(who) - _NAMED} more" if len(who) > _NAMED else ""
        shown = _show.clean(f"{', '.join(who[:_NAMED])}{more}")
        gap = " " * (_WIDE - len(_word(ruling.answer)))
        click.echo(f"{QUESTIONS[use] + '?':{width}}  {_mark(ruling.answer)}{gap}  {shown}")
    for title, lines in _explained(verdict).items():
        _section(title, lines)


def _explained(verdict: Verdict) -> dict[str, list[str]]:
    """Return the reasons of every answer; questions with the same reasons share a heading."""
    from memcard.core.license import USES as QUESTIONS

    alike: dict[tuple[Answer, tuple[str, ...]], list[str]] = {}
    for use, ruling in verdict.rulings.items():
        key = ruling.answer, tuple(_because(ruling.deciding))
        alike.setdefault(key, []).append(QUESTIONS[use])
    found: dict[str, list[str]] = {}
    for (answer, lines), questions in alike.items():
        end = "" if answer == "if" else ", because"
        found[f"{'; '.join(questions)}: {_word(answer)}{end}"] = list(lines)
    return found


def _one_answer(verdict: Verdict, use: Use) -> None:
    """Print one answer, and what every parent says to it, the strictest first."""
    from memcard.core.license import USES as QUESTIONS

    ruling = verdict.rulings[use]
    click.echo(f"\nmay I {QUESTIONS[use]}? {_mark(ruling.answer)}")
    for answer in dict.fromkeys(reason.answer for reason in ruling.reasons):
        said = [reason for reason in ruling.reasons if reason.answer == answer]
        for line in _because(said):
            click.echo(_show.clean(f"  {_word(answer):{_WIDE}}  {line}"))


def _because(reasons: Sequence[Reason]) -> list[str]:
    """Return one line for each thing that is said, with all who say it."""
    said: dict[tuple[str, str, str], list[str]] = {}
    for r in reasons:
        said.setdefault((r.why, r.license, r.where), []).append(r.parent)
    return [
        f"{why} [{license_}{', ' if where else ''}{where}: {', '.join(dict.fromkeys(parents))}]"
        for (why, license_, where), parents in said.items()
    ]


def _word(answer: Answer) -> str:
    return _WORDS.get(answer, answer)


def _mark(answer: Answer) -> str:
    return click.style(_word(answer), fg=_COLORS[answer], bold=True)


def _duty(owed: Owed) -> str:
    return f"{owed.duty.says} [{owed.license}, {owed.duty.where}: {', '.join(owed.parents)}]"


def _read(parent: Parent) -> str:
    role = "" if parent.role == "itself" else f" ({parent.role})"
    return f"{parent.name}{role}: {parent.license.id}; {parent.origin}"


def _sources(verdict: Verdict) -> Iterable[str]:
    known = [p.license for p in verdict.parents if p.license.id != "unknown"]
    return dict.fromkeys(f"{x.id}, {x.version}: {x.source}" for x in known)


def _section(title: str, lines: Iterable[str]) -> None:
    shown = list(lines)
    if shown:
        click.echo(f"\n{title}")
        for line in shown:
            click.echo(_show.clean(f"  {line}"))
