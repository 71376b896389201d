"""How much a file may claim before memcard refuses it: one place, measured against real files."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that keep a small hostile file from costing much time or memory."""

    header_bytes: int = 100_000_000  # safetensors' own limit
    pickle_bytes: int = 256_000_000
    pickle_ops: int = 20_000_000
    pickle_stack: int = 131_072
    pickle_nodes: int = 2_000_000
    nesting: int = 64
    zip_members: int = 1_000_000
    # a stride-0 view may be larger than its storage, up to this
    expanded_view_bytes: int = 64 << 20


DEFAULT = Limits()
