"""Several processes with one library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fixtures import small
from memcard.jobs.library import Library

WORKER = """
import sys
from pathlib import Path
from memcard.errors import NotFoundError, UsageError
from memcard.jobs.library import Library

home, folder, me = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
library = Library(home)
for round in range(6):
    for path in sorted(folder.glob("*.safetensors")):
        library.add([path], how="link" if me == "1" else "in-place")
    library.gc(days=0)
    library.ls()
    if me == "2":
        library.rm("3")
        try:
            library.undo()
        except (NotFoundError, UsageError):
            pass
"""


def test_writers_readers_and_collectors_do_not_hurt_each_other(tmp_path: Path) -> None:
    models = tmp_path / "models"
    models.mkdir()
    before = {}
    for seed in range(6):
        path = small.save(models / f"{seed}.safetensors", small.weights(seed, size=2000 + seed))
        before[path] = path.read_bytes()
    command = [sys.executable, "-c", WORKER, str(tmp_path / "home"), str(models)]

    workers = [
        subprocess.Popen([*command, str(n)], stderr=subprocess.PIPE, text=True) for n in range(3)
    ]
    said = [worker.communicate(timeout=100)[1] for worker in workers]

    assert [worker.returncode for worker in workers] == [0, 0, 0], said
    library = Library(tmp_path / "home")
    assert library.ls().faults == ()
    library.add([models])
    for path, raw in before.items():
        assert path.read_bytes() == raw
        done = library.export(path.stem, tmp_path / "out", overwrite=True)
        assert done.path.read_bytes() == raw
    assert list((tmp_path / "home" / "tmp").iterdir()) == []
    assert list((tmp_path / "home" / "leases").iterdir()) == []
