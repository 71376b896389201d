"""What `pack` makes of the saves of one long fine-tune, with both moments of AdamW.

    python benchmarks/training_series.py FOLDER [--family unet|text] [--minilm FOLDER_OR_WHEEL] [--amp] [--saves N] [--apart N]

The networks of ``corpus.py``: the UNet of memcard's starter, or MiniLM with two of its six layers. The optimizer
is warm before the first save; saves are far enough apart for the weights to have moved. ``--amp`` trains with
``torch.autocast`` in bfloat16, as trainers do, while weights and moments stay float32. The first run writes the base and
the saves into FOLDER; later runs use them. Packs, exports everything with the originals out of sight, and compares
each file's SHA-256. Deterministic on one machine: one thread, fixed seeds.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WARM = 200  # steps before the first save


def train(given: argparse.Namespace) -> None:
    """Write the base and the saves."""
    import corpus
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    family = corpus.unet() if given.family == "unet" else corpus.text(given.minilm)
    if given.family == "text":
        family.model.encoder.layer = family.model.encoder.layer[:2]
    if given.amp:
        family = corpus.Family(family.name, family.model, _autocast(family._loss))
    base, number = family.weights(), 0
    corpus.save(given.folder, "base", base)
    for step, optimizer, _ in family.tune(base, corpus.LOW, WARM + given.apart * given.saves):
        if step > WARM and (step - WARM) % given.apart == 0:
            number += 1
            moments = corpus.moments(family.model, optimizer.state_dict())
            corpus.save(given.folder, f"save_{number:02}", {**family.weights(), **moments})


def _autocast(loss: Any) -> Any:
    import torch

    def found(model: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return loss(model)

    return found


def measure(folder: Path) -> dict[str, Any]:
    """Add, pack and export in this process."""
    import memcard

    files = sorted(folder.glob("*.safetensors"))
    with tempfile.TemporaryDirectory(dir=folder) as place:
        library, sums = memcard.Library(Path(place) / "library"), {}
        library.add(files, how="link")
        start = _cpu()
        done = library.pack().done
        packing, peak = _cpu() - start, _peak()
        for path in files:
            with path.open("rb") as file:
                sums[path.stem] = hashlib.file_digest(file, "sha256").hexdigest()
            path.rename(path.with_suffix(".hidden"))
        try:
            start, out = _cpu(), Path(place) / "exported"
            same = [library.export(n, out, overwrite=True).sha256 == s for n, s in sums.items()]
            exporting = _cpu() - start
        finally:
            for path in files:
                path.with_suffix(".hidden").rename(path)
    return {
        "checkpoints": [(d.name, d.size, d.stored, d.how) for d in sorted(done, key=lambda d: d.name)],
        "pack": packing, "peak": peak, "export": exporting, "same": all(same),
    }  # fmt: skip


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak() -> float:
    """Return the largest resident memory in MB; the usage the system counts begins with that of the parent."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def show(found: dict[str, Any]) -> None:
    """Print one line for each checkpoint, then the sums."""
    for name, size, stored, how in found["checkpoints"]:
        ratio = f"{size / stored:6.2f} x" if stored else "     -"
        print(f"{name:10}{size / 1e6:9.1f} MB{stored / 1e6:9.1f} MB {ratio}  {how}")
    saves = [c for c in found["checkpoints"] if c[0].startswith("save")]
    for title, those in (("saves", saves), ("with base", found["checkpoints"])):
        size, stored = (sum(c[i] for c in those) for i in (1, 2))
        print(f"{title:10}{size / 1e6:9.1f} MB{stored / 1e6:9.1f} MB {size / stored:6.2f} x")
    print(
        f"pack {found['pack']:.1f} CPU s, peak {found['peak']:.0f} MB; export {found['export']:.1f} CPU s; "
        f"every file came back as it was: {found['same']}"
    )


def main() -> None:
    """Train if need be, then measure in a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--family", choices=["unet", "text"], default="unet")
    parser.add_argument("--minilm", type=Path)
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--saves", type=int, default=20)
    parser.add_argument("--apart", type=int, default=50)
    parser.add_argument("--only", choices=["measure"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        print(json.dumps(measure(given.folder)))
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    if not (given.folder / f"save_{given.saves:02}.safetensors").exists():
        train(given)
    again = [sys.executable, __file__, str(given.folder), "--only", "measure"]
    show(json.loads(subprocess.run(again, check=True, stdout=subprocess.PIPE).stdout))


if __name__ == "__main__":
    main()
