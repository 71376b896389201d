"""A family tree as an SVG picture: parents on the left, children on the right, one box for each checkpoint."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from html import escape

from memcard.jobs.tree import Node, Tree

_WIDTH, _HEIGHT = 232, 66  # of a box, pixels
_ACROSS, _DOWN = 96, 22  # between boxes
_MARGIN, _TITLE = 28, 34
_NAME_ROOM, _TEXT_ROOM = 27, 31  # letters in a line of a box
_STYLE = """
text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif;fill:#1f2933}
.name{font-size:14px;font-weight:600}.facts,.made,.how{font-size:11.5px;fill:#52606d}.made{fill:#3f5d8a}
.box{fill:#fff;stroke:#9aa5b1}.root .box{fill:#e6f0fb;stroke:#2f6fb3;stroke-width:2}
.unknown .box{fill:#f5f7fa;stroke-dasharray:4 3}.line{fill:none;stroke:#7b8794;stroke-width:1.4}
.difference{stroke-dasharray:2 4}.how{font-size:10.5px}
""".strip().replace("\n", "")


def svg(tree: Tree) -> str:
    """Return the picture as text. Names are a stranger's words: everything is escaped."""
    columns = _columns(tree)
    places = _places(tree, columns)
    width = _MARGIN * 2 + len(columns) * _WIDTH + (len(columns) - 1) * _ACROSS
    tallest = max(len(column) for column in columns)
    height = _MARGIN * 2 + _TITLE + tallest * (_HEIGHT + _DOWN) - _DOWN
    box = f'width="{width}" height="{height}"'
    title = f"Family of {tree.nodes[tree.root].name}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" {box} viewBox="0 0 {width} {height}" role="img">',
            f"<title>{_text(title)}</title>",
            f"<style>{_STYLE}</style>",
            f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
            f'<text class="name" x="{_MARGIN}" y="{_MARGIN + 4}">{_text(_cut(title, 60))}</text>',
            *_lines(tree, places),
            *(_box(tree, node, places[node.sha256]) for node in tree.nodes.values()),
            "</svg>\n",
        ]
    )


def _columns(tree: Tree) -> list[list[str]]:
    """Return the checkpoints by the longest way from an ancestor; loops in forged files end somewhere."""
    level = dict.fromkeys(tree.nodes, 0)
    for _ in tree.nodes:
        changed = False
        for edge in tree.edges:
            if level[edge.child] <= level[edge.parent] < len(tree.nodes):
                level[edge.child] = level[edge.parent] + 1
                changed = True
        if not changed:
            break
    # Nobody stands further left than his nearest child asks for.
    for sha256 in sorted(level, key=lambda sha256: -level[sha256]):
        below = [level[edge.child] for edge in tree.children(sha256)]
        level[sha256] = max(level[sha256], min(below, default=0) - 1)
    used = sorted(set(level.values()))
    return [[sha256 for sha256 in tree.nodes if level[sha256] == number] for number in used]


def _places(tree: Tree, columns: Iterable[list[str]]) -> dict[str, tuple[int, int]]:
    """Return the upper left corner of each box; children stand near the middle of their parents."""
    ordered, rows = list(columns), dict[str, float]()
    tallest = max(len(column) for column in ordered)
    found: dict[str, tuple[int, int]] = {}
    for number, column in enumerate(ordered):
        column.sort(key=lambda sha256: _middle(tree, sha256, rows))
        first = (tallest - len(column)) / 2
        for row, sha256 in enumerate(column):
            rows[sha256] = first + row
            x = _MARGIN + number * (_WIDTH + _ACROSS)
            y = _MARGIN + _TITLE + round((first + row) * (_HEIGHT + _DOWN))
            found[sha256] = x, y
    return found


def _middle(tree: Tree, sha256: str, rows: Mapping[str, float]) -> float:
    above = [rows[edge.parent] for edge in tree.parents(sha256) if edge.parent in rows]
    return sum(above) / len(above) if above else 0.0


def _lines(tree: Tree, places: Mapping[str, tuple[int, int]]) -> Iterator[str]:
    for edge in tree.edges:
        kind = " difference" if edge.how == "difference to" else ""
        way, (x, y) = _way(places[edge.parent], places[edge.child], places.values())
        yield (
            f'<path class="line{kind}" d="{way}"><title>{_text(edge.how)}</title></path>'
            f'<path d="M{x} {y}l-8 -4v8z" fill="#7b8794"/>'
        )


def _way(
    parent: tuple[int, int], child: tuple[int, int], boxes: Iterable[tuple[int, int]]
) -> tuple[str, tuple[int, int]]:
    """Return the way of a line, round the boxes between, and where it ends."""
    x1, y1 = parent[0] + _WIDTH, parent[1] + _HEIGHT // 2
    x2, y2 = child[0], child[1] + _HEIGHT // 2
    between = [y for x, y in boxes if x1 < x < x2 - _WIDTH]
    if not between:
        return f"M{x1} {y1}{_curve(x1, y1, x2 - 7, y2)}", (x2, y2)
    lane = _lane(between, (y1 + y2) // 2)
    left, right = x1 + _ACROSS, x2 - _ACROSS
    into, out = _curve(x1, y1, left, lane), _curve(right, lane, x2 - 7, y2)
    return f"M{x1} {y1}{into}L{right} {lane}{out}", (x2, y2)


def _curve(x1: int, y1: int, x2: int, y2: int) -> str:
    half = max((x2 - x1) // 2, 24)
    return f"C{x1 + half} {y1} {x2 - half} {y2} {x2} {y2}"


def _lane(between: Iterable[int], wanted: int) -> int:
    """Return the height nearest to the one wanted at which no box stands."""
    tops = list(between)
    gap = _DOWN // 2
    heights = [wanted, *(y - gap for y in tops), *(y + _HEIGHT + gap for y in tops)]
    free = [h for h in heights if all(h < y - gap + 1 or h > y + _HEIGHT + gap - 1 for y in tops)]
    return min(free, key=lambda height: abs(height - wanted))


def _box(tree: Tree, node: Node, place: tuple[int, int]) -> str:
    x, y = place
    kinds = ["root"] * (node.sha256 == tree.root) + ["unknown"] * (not node.known)
    facts = _facts(node)
    made = node.made or _how(tree, node)
    return (
        f'<g class="{" ".join(kinds)}"><title>{_text(f"{node.name} · {node.sha256} · {made}")}</title>'
        f'<rect class="box" x="{x}" y="{y}" width="{_WIDTH}" height="{_HEIGHT}" rx="7"/>'
        f'<text class="name" x="{x + 12}" y="{y + 22}">{_text(_cut(node.name, _NAME_ROOM))}</text>'
        f'<text class="facts" x="{x + 12}" y="{y + 39}">{_text(_cut(facts, _TEXT_ROOM))}</text>'
        f'<text class="made" x="{x + 12}" y="{y + 55}">{_text(_cut(made, _TEXT_ROOM))}</text></g>'
    )


def _facts(node: Node) -> str:
    if not node.known:
        return "not in the library"
    size = _size(node.size)
    return " · ".join(filter(None, [node.architecture, node.kind, size]))


def _size(n: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n < 1000:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.2f} GB"


def _how(tree: Tree, node: Node) -> str:
    """Return how a checkpoint without a recipe came to be, in a few words."""
    parents = tree.parents(node.sha256)
    if not parents:
        return ""
    names = ", ".join(tree.nodes[edge.parent].name for edge in parents)
    return f"{parents[0].how} {names}"


def _cut(text: str, room: int) -> str:
    """Return a text that fits into a line; letters of Chinese and the like are twice as wide."""
    taken, kept = 0, ""
    for letter in " ".join(text.split()):
        taken += 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        if taken > room:
            return f"{kept[:-1]}…"
        kept += letter
    return kept


def _text(text: str) -> str:
    return escape("".join(c if c.isprintable() else "·" for c in text))
