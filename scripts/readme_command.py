"""Print one of README's two one-line commands, so that CI runs the very text people read."""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).parent.parent / "README.md"


def command(name: str) -> str:
    """Return the line after ``<!-- command: NAME -->`` inside its fence."""
    match = re.search(rf"<!-- command: {name} -->\n```bash\n(.+)\n```", README.read_text("utf-8"))
    if not match:
        raise SystemExit(f"README.md has no one-line command {name!r}")
    return match[1]


if __name__ == "__main__":
    print(command(sys.argv[1]))
