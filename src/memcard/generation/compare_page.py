"""The page of a comparison: every picture and what moves them in one HTML file that asks no network.

What it does lies in ``compare_page.js``, how it looks in ``compare_page.css``; both are written into it, and
the browser is told to load nothing else.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping
from html import escape
from importlib.resources import files
from typing import Any, BinaryIO, Final

GENERATOR: Final = "<meta name=generator content='memcard compare'>"
_POLICY: Final = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
)


def write(file: BinaryIO, facts: Mapping[str, Any], images: Iterable[bytes]) -> None:
    """Write the page; one picture at a time is in memory. The same facts give the same bytes.

    Args:
        file: open for writing.
        facts: ``title``; ``fixed``, what all have in common; ``axes`` with ``name`` and ``labels``;
            ``x``, ``y`` and ``pages``, which of them stand where at first; ``cells``: each with ``at``, its place on
            every axis, and either ``why`` it is impossible, or ``image`` (its number), ``size``, ``file``,
            ``settings`` (name, value, origin), ``text`` and ``command``.
        images: PNG files, in the order of their numbers.
    """
    title = f"{facts['title']} - memcard compare"
    head = _HEAD.format(
        generator=GENERATOR,
        policy=_POLICY,
        title=escape(title),
        style=_resource("compare_page.css"),
    )
    file.write(head.encode("utf-8", "replace"))  # a prompt may hold half a character
    file.write(f"<script>const FACTS={_script(facts)};\nconst IMAGES=[\n".encode())
    file.writelines(b'"' + base64.b64encode(image) + b'",\n' for image in images)
    file.write(f"];\n{_resource('compare_page.js')}</script>\n</body>\n</html>\n".encode())


_HEAD: Final = """<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta name=viewport content="width=device-width,initial-scale=1">
{generator}
<meta http-equiv=Content-Security-Policy content="{policy}">
<title>{title}</title>
<style>
{style}</style>
<body>
<noscript><p class=plain>This page needs JavaScript to lay out its pictures; it loads nothing.</p></noscript>
"""


def _script(facts: Mapping[str, Any]) -> str:
    """Return JSON that cannot end the script it stands in."""
    text = json.dumps(facts, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _resource(name: str) -> str:
    return files("memcard.generation").joinpath(name).read_text("utf-8")
