"""Which operations are merge methods. Light: the list for ``--help`` loads none of them."""

from __future__ import annotations

import ast
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path

from memcard.errors import NotFoundError
from memcard.ops import OPS
from memcard.recipes.op import Op

# Operations that change one checkpoint, put files together without blending weights, or do what another
# program has done.
_OTHERS = (
    *("by_block", "by_block_survey", "cast", "dequantize", "emulated_sum", "identity", "overlay"),
    "pick_ema",
)


def method_names() -> tuple[str, ...]:
    """List the merge methods without loading any."""
    return tuple(
        name for name in OPS if name not in _OTHERS and not name.startswith(("lora_", "delta_"))
    )


def method_lines() -> dict[str, str]:
    """Return the first line of each method's own description, read from its file, not by running it."""
    return {name: _first_line(name) for name in method_names()}


def methods() -> dict[str, Op]:
    """Return the merge methods by name: the operations that make one checkpoint of two or more."""
    return {name: OPS[name] for name in method_names()}


def method_named(name: str) -> Op:
    """Return a merge method.

    Raises:
        NotFoundError: there is none of this name.
    """
    there = method_names()
    if name not in there:
        near = get_close_matches(name, there, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise NotFoundError(f"{name}: not a merge method.{hint} There are: {', '.join(there)}.")
    return OPS[name]


def _first_line(name: str) -> str:
    spec = find_spec(f"{OPS.package}.{name}")
    if spec is None or spec.origin is None:
        return "from another package"
    text = ast.get_docstring(ast.parse(Path(spec.origin).read_text("utf-8"))) or ""
    return text.partition("\n")[0].rstrip(".")
