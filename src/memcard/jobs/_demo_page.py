"""The page that the demo leaves behind: the sheet, the checkpoints, the commands to repeat it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>memcard demo</title>
<style>
  body {{ font: 16px/1.5 system-ui, sans-serif; color: #1c1c20; background: #fafafa; margin: 0 auto;
         max-width: 1340px; padding: 2rem 1.5rem }}
  h1 {{ margin: 0 0 .25rem }} h2 {{ margin: 2.5rem 0 .5rem }}
  .sheet {{ overflow-x: auto; border: 1px solid #ddd; background: #fff; border-radius: 8px }}
  .sheet img {{ display: block; max-width: 100% }}
  table {{ border-collapse: collapse; width: 100%; background: #fff; border: 1px solid #ddd }}
  th, td {{ text-align: left; padding: .45rem .7rem; border-bottom: 1px solid #eee; vertical-align: top }}
  code, pre {{ font: 14px/1.5 ui-monospace, monospace }}
  pre {{ background: #1c1c20; color: #f2f2f2; padding: 1rem; border-radius: 8px; overflow-x: auto }}
  .faint {{ color: #66666e }}
</style>
<h1>What a checkpoint changes</h1>
<p class="faint">Every picture below has the same seed ({seed}). Only the checkpoint, what is laid on top of it, or the
guidance scale differs. Made on this machine in {seconds:.0f} s, without a network.</p>
<div class="sheet"><img src="sheet.png" alt="{alt}"></div>
<h2>The checkpoints</h2>
<table><tr>{head}</tr>{rows}</table>
<h2>Do it again</h2>
<pre>{commands}</pre>
<p class="faint">memcard {version}</p>
</html>
"""


def page(
    *,
    checkpoints: Sequence[Mapping[str, str]],
    commands: Sequence[str],
    labels: Sequence[str],
    seed: int,
    seconds: float,
    version: str,
) -> str:
    """Return a self-contained HTML page that shows ``sheet.png`` of its own folder."""
    columns = list(checkpoints[0])
    return _PAGE.format(
        alt=escape("rows: " + ", ".join(labels)),
        head="".join(f"<th>{escape(c)}</th>" for c in columns),
        rows="".join(
            "<tr>" + "".join(f"<td>{escape(row[c])}</td>" for c in columns) + "</tr>"
            for row in checkpoints
        ),
        commands=escape("\n".join(commands)),
        seed=seed,
        seconds=seconds,
        version=escape(version),
    )
