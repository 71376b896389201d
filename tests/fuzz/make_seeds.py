"""Write the seeds anew from the catalogues of odd and hostile files: python make_seeds.py.

What coverage-guided runs found stays: seeds named ``found-…``.
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from attacks.honest import HONEST
from attacks.hostile import HOSTILE
from fuzz.targets import SEEDS, TARGETS, put_tree, tree

MOST = 6_000  # bytes of one seed
BARE = (
    "bare_pickle",
    "bare_pickle_of_protocol_0",
    "old_in_the_object",
    "protocol_5",
    "numpy_object_array",
)


def main() -> None:
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as made:
        for seed in SEEDS.rglob("*"):
            if seed.is_file() and not seed.name.startswith("found-"):
                seed.unlink()
        for case, odd in HONEST.items():
            folder = Path(made, "honest", case)
            folder.mkdir(parents=True)
            path, _ = odd.make(folder)
            shared = TARGETS[odd.format].put is put_tree
            _keep(odd.format, case, tree(folder) if shared else path.read_bytes())
        for case in BARE:
            folder = Path(made, "hostile", case)
            folder.mkdir(parents=True)
            raw = HOSTILE[case].make(folder, "/tmp/marker").read_bytes()
            _keep("torch_zip" if raw[:2] == b"PK" else "bare_pickle", case, raw)


def _keep(format_name: str, case: str, raw: bytes) -> None:
    if len(raw) <= MOST:
        path = SEEDS / format_name / case
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)


if __name__ == "__main__":
    main()
