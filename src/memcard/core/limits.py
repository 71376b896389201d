"""How much a file may claim before memcard refuses it: one place, measured against real files."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds that keep a small hostile file from costing much time or memory."""

    header_bytes: int = 100_000_000  # safetensors' own limit
    header_values: int = 1_000_000  # of JSON; a tensor takes about ten
    pickle_bytes: int = 256_000_000
    pickle_ops: int = 10_000_000
    pickle_stack: int = 131_072
    pickle_nodes: int = 2_000_000
    nesting: int = 64
    # one file of 100,000 tensors costs 1 s and 60 MB to list, twice that to inspect; the largest
    # known has 20,000
    tensors: int = 100_000
    name_bytes: int = 64 << 20  # of all tensor names together
    # keys whose hash an attacker can choose (Python salts only text): n of them cost n * n steps
    dict_keys: int = 10_000
    asked: int = 1000  # unknown names that a refusal lists
    zip_members: int = 1_000_000
    # a stride-0 view may be larger than its storage, up to this
    expanded_view_bytes: int = 64 << 20
    # many tensors may share a storage: all together are at most this, or this many times the file
    listed_bytes: int = 512 << 20
    listed_ratio: int = 32
    # Deflate packs zeros 1000:1, weights at most 3:1 (float32 that came from float16). A compressed
    # archive may therefore unpack to this many bytes, or to this many times its size.
    inflated_bytes: int = 64 << 20
    inflated_ratio: int = 20
    inflated_program_bytes: int = 16 << 20  # a program of 100,000 tensors


DEFAULT = Limits()
