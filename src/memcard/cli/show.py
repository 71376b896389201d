"""memcard show: everything the library knows of one checkpoint."""

from __future__ import annotations

from typing import Any

import click

from memcard.cli import _show

_OWN = {True: " (the library's own)", False: ""}
_STATES = {
    "ok": "",
    "changed": " (changed since; not used)",
    "missing": " (not there)",
}


@click.command(
    epilog=_show.examples(
        "memcard show sdxl-base", "memcard show 31e35c80fc", "memcard show my-tune@6ce01613 --json"
    )
)
@click.argument("ref")
@_show.json_option
def command(ref: str, as_json: bool) -> int:
    """Show what the library knows of a checkpoint: what it is, its digests, where it lies.

    REF is a name, NAME@DIGITS for an older version, or 8 or more first digits of a digest.
    """
    from memcard.jobs.library import Library

    facts = Library().show(ref).to_dict()
    if as_json:
        _show.print_json(facts)
    else:
        _show.print_facts(_readable(facts))
    return 0


def _readable(facts: dict[str, Any]) -> dict[str, Any]:
    dtypes = ", ".join(f"{count} {name}" for name, count in facts["dtypes"].items())
    places = [p["path"] + _OWN[p["library"]] + _STATES[p["state"]] for p in facts["places"]]
    places += [
        f"{p['path']} (in the trash; memcard undo {p['entry']} puts it back)"
        for p in facts["in_trash"]
    ]
    files = [
        f"{f['name']}  {f['sha256'][:12]}  {_show.human_size(f['size'])}" for f in facts["files"]
    ]
    card, packed = facts["card"], facts["packed"]
    settings = card.get("settings", {})
    return {
        "name": facts["name"],
        "title": card.get("title"),
        "is": " ".join(filter(None, [facts["architecture"], facts["kind"]])),
        "size": _show.human_size(facts["size"]),
        "format": facts["format"],
        "tensors": f"{facts['tensors']}: {dtypes}" if dtypes else "none",
        "trigger words": ", ".join(card.get("trigger_words", ())),
        "tags": ", ".join(card.get("tags", ())),
        "settings": ", ".join(f"{key} {value}" for key, value in settings.items()),
        "license": card.get("license"),
        **facts["digests"],
        "added": facts["added"],
        "places": places,
        "packed": None if packed is None else _packed(packed, facts["size"]),
        "files": files if len(files) > 1 else None,
        "made of": facts["parents"],
        "versions before": [f"{v['sha256'][:12]}  {v['at']}" for v in facts["history"]],
        "notes": facts["notes"],
        "manifest": facts["manifest"],
    }


def _packed(packed: dict[str, Any], size: int) -> str:
    share = f"{100 * packed['stored'] / max(size, 1):.2g} % of its size"
    how = packed["recipe"] or _show.counted(len(packed["packs"]), "pack")
    return f"{_show.human_size(packed['stored'])}, {share}: {how}"
