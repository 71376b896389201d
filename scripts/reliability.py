"""Count the faults that the tests inject, and write the table in ``docs/reliability.md``.

python scripts/reliability.py            run all tests of faults (half an hour), write the table
python scripts/reliability.py COUNTS     write it from the counts of a run (MEMCARD_FAULT_COUNTS=COUNTS)
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- counts -->\n", "<!-- end of counts -->\n"


def run(counts: Path) -> None:
    """Run every test of faults, the slow ones too."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "slow or not slow", "tests/faults"]
    environment = os.environ | {"MEMCARD_FAULT_COUNTS": str(counts), "MEMCARD_FAULT_EACH": "1"}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)  # noqa: S603


def table(counts: Path) -> str:
    """Return the table of a run."""
    sys.path.insert(0, str(ROOT / "tests"))
    from faults.program import KINDS

    told = [json.loads(line) for line in counts.read_text().splitlines()]
    latest = {(one["kind"], one["test"]): one["places"] for one in told}
    places = Counter[str]()
    for (kind, _), count in latest.items():
        places[kind] += count
    rows = [
        f"| {what} | {places[kind]:,} | {asked} | `{test}` |"
        for kind, (what, asked, test) in KINDS.items()
    ]
    head = "| fault | injected | what is true afterwards | test in `tests/faults` |\n|---|---|---|---|\n"
    return head + "\n".join(rows) + f"\n\n{sum(places.values()):,} in all.\n"


def main() -> None:
    """Run, count, write."""
    if len(sys.argv) > 1:
        found = table(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            counts = Path(folder) / "counts"
            run(counts)
            found = table(counts)
    text = PAGE.read_text("utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    PAGE.write_text(f"{before}{BEGIN}{found}{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
