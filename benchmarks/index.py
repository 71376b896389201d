"""The index of a library of 20,000 checkpoints: build, list, search; against a plain scan of the same rows.

    python benchmarks/index.py [ROWS]

CPU seconds of the calls themselves (the best of five), on one processor; memory is the peak of the process.
"""

from __future__ import annotations

import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from memcard.store.index import Index, IndexRow
from memcard.store.index_words import fold, query_words

ROWS = 20_000
REPEATS = 5
FAMILIES = ("sd1", "sdxl", "flux", "sd3", "wan21")
KINDS = ("lora", "lora", "lora", "checkpoint", "vae")
HEADS = ("dream", "real", "anime", "pixel", "film", "ink", "neon", "clay", "water", "photo")
TAILS = ("Shaper", "Vision", "Mix", "XL", "Style", "Brush", "Light", "World", "Face", "Detail")


def corpus(count: int) -> list[IndexRow]:
    """Return rows like those of a model folder: 120 words of description, 6 tags, 2 trigger words."""
    rng = random.Random(0)
    words = [
        "".join(rng.choices("abcdefghijklmnoprstuvw", k=rng.randint(3, 10))) for _ in range(8000)
    ]
    weights = [1 / (i + 1) for i in range(len(words))]  # few are common, as in any language
    texts = rng.choices(words, weights, k=120 * count)
    tags = rng.choices(words[:400], k=6 * count)
    return [
        IndexRow(
            manifest=f"{i:064x}",
            name=f"{rng.choice(HEADS)}{rng.choice(TAILS)}_v{i}",
            sha256=f"{rng.getrandbits(256):064x}",
            kind=rng.choice(KINDS),
            family=rng.choice(FAMILIES),
            size=rng.randint(10**6, 10**10),
            title=f"{rng.choice(HEADS).title()} {rng.choice(TAILS)} {i}",
            tags=tuple(tags[6 * i : 6 * i + 6]),
            trigger_words=tuple(tags[6 * i : 6 * i + 2]),
            text=" ".join(texts[120 * i : 120 * i + 120]),
            added=1.7e9 + i,
        )
        for i in range(count)
    ]


def best(call: Callable[[], object], repeats: int = REPEATS) -> float:
    """Return the least CPU time of some calls, in milliseconds."""
    found = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return 1000 * min(found)


def scan(rows: list[IndexRow], query: str) -> list[IndexRow]:
    """Search without an index: fold every text, look for every word."""
    wanted = query_words(query)
    return [
        row for row in rows if all(w in fold(f"{row.name} {row.title} {row.text}") for w in wanted)
    ]


def main() -> None:
    """Print the table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    rows = corpus(count)
    common = rows[0].text.split()[0]
    with tempfile.TemporaryDirectory() as folder:
        index = Index("benchmark", lambda: rows, folder=Path(folder))
        print(f"{count} checkpoints")
        print(f"{'build anew':44}{best(index.rebuild, 2):9.0f} ms")
        size = sum(path.stat().st_size for path in Path(folder).iterdir())
        print(f"{'size of the index':44}{size / 1e6:9.1f} MB")

        def opened() -> object:
            with Index("benchmark", lambda: rows, folder=Path(folder)) as fresh:
                return fresh.count()

        print(f"{'open, with the check of every byte':44}{best(opened):9.1f} ms")
        print(f"{'list all, by name':44}{best(index.list):9.1f} ms")
        print(f"{'list all, largest first':44}{best(lambda: index.list(sort='size')):9.1f} ms")
        print(
            f"{'list 100 of one kind and tag':44}{best(lambda: index.list(kind='lora', tags=[rows[0].tags[0]], limit=100)):9.1f} ms"
        )
        for query in (
            "dream",
            "dream xl",
            "v777",
            "real vision light",
            common,
            rows[5].sha256[:8],
            "zzz",
        ):
            found = len(index.search(query, limit=None))
            ms = best(lambda q=query: index.search(q))
            print(f"{f'search {query!r}, 100 of {found}':44}{ms:9.1f} ms")
        print(
            f"{'search all of the commonest word':44}{best(lambda: index.search(common, limit=None)):9.1f} ms"
        )
        print(f"{'change one row':44}{best(lambda: index.upsert(rows[:1])):9.1f} ms")
        print(
            f"{'no index: scan of rows in memory':44}{best(lambda: scan(rows, 'dream xl'), 2):9.0f} ms"
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'peak memory, with the rows themselves':44}{peak:9.0f} MB")


if __name__ == "__main__":
    main()
