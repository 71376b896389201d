#!/usr/bin/env python3
"""Feed changed files to the readers: whatever comes in, only typed errors may leave, soon and cheaply.

    scripts/fuzz.py --minutes 20                    all readers, a share each
    scripts/fuzz.py --minutes 5 --format gguf       one reader
    scripts/fuzz.py --minutes 5 --format gguf --coverage    guided by coverage (needs atheris, Linux)

Seeds lie in tests/fuzz/seeds/FORMAT, findings go to --out: the input, and a .txt with the trace.
Each input has 5 s and 200 MB. Exit code 1 if anything was found. What a run found is in docs/plans/fuzz.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from random import Random
from tempfile import gettempdir

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path.insert(0, str(TESTS))  # before this folder: "fuzz" is the package, not this script

NAMES = sorted(folder.name for folder in (TESTS / "fuzz" / "seeds").iterdir())


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=1.0, help="in total")
    parser.add_argument("--format", choices=NAMES, action="append", help="default: all")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--out", type=Path, default=Path(gettempdir()) / "memcard-fuzz")
    parser.add_argument("--coverage", action="store_true", help="let atheris guide the changes")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.coverage:
        if not args.format:
            parser.error("--coverage needs one --format")
        guided(args.format[0], args.minutes * 60, args.seed, args.out)  # leaves the process
    from fuzz.drive import in_process

    names = args.format or NAMES
    found = False
    for name in names:
        seconds = args.minutes * 60 / len(names)
        counts = in_process(name, seconds, args.seed, args.out)
        bad = any(key.startswith("FINDING") for key in counts)
        found = found or bad
        print(
            json.dumps({"format": name, "seed": args.seed, "seconds": seconds, **counts}),
            flush=True,
        )
    return int(found)


def guided(name: str, seconds: float, seed: int, out: Path) -> None:
    """Run libFuzzer on one reader until the time is over or something is found."""
    import atheris

    with atheris.instrument_imports(include=["memcard"]):
        from fuzz.oracle import outcome, set_limits
        from fuzz.targets import SEEDS, TARGETS
        from memcard.formats import FORMATS

        list(FORMATS.values())  # plug-ins are imported on use
    target = TARGETS[name]
    corpus = out / f"corpus-{name}"
    corpus.mkdir(exist_ok=True)
    seeds = target.seeds()

    def change(raw: bytes, most: int, number: int) -> bytes:
        rng = Random(number)  # noqa: S311  # repeatable, not secret
        try:
            made = target.mutate(bytes(raw), rng, seeds)
        except ValueError:  # libFuzzer tries inputs that are no tree
            made = rng.choice(seeds)
        return made[:most] if rng.random() < 0.8 else atheris.Mutate(raw, most)

    def one(raw: bytes) -> None:
        outcome(target, raw, Random(len(raw)), alarm=False)  # noqa: S311

    set_limits()
    options = [
        f"-max_total_time={int(seconds)}",
        f"-seed={seed % (1 << 31) or 1}",
        "-timeout=5",
        "-max_len=65536",
    ]
    options += [f"-artifact_prefix={out}/{name}-", "-rss_limit_mb=1024", "-print_final_stats=1"]
    argv = [sys.argv[0], *options, str(corpus), str(SEEDS / name)]
    atheris.Setup(argv, one, custom_mutator=change)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
