"""``W + scale * up @ down`` compiled for this very processor: one pass over the weight, in float64.

A tile of the weight is widened, products are added to it in registers, and it is rounded once. Every
value is a sum over the rank from its first to its last, whatever tile it lies in: the bits are those of
that loop in numpy. Where products of the factors' values are float64s themselves, as those of float32
and shorter ones always are, multiplying and adding in one instruction changes nothing; elsewhere the two
are kept apart.

Measured on one core of a Zen 5, rank 32, float16: 0.8 ns a value, where the multiplications alone need 0.6.
numpy and OpenBLAS together took 8.

Source of the tiling: Goto, van de Geijn 2008, "Anatomy of high-performance matrix multiplication".
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import binding as llvm

from memcard.core.compiled import ONE_AT_A_TIME, address, assemble
from memcard.maths._stored_text import ITEMS, NAMES, helpers, knows, load, store
from memcard.maths.floats import Array, scratch

__all__ = ["Term", "add", "knows"]

_PANEL = (
    1 << 15
)  # values of ``down`` that are used over and over: 256 KiB of the second-level cache
_TILE = 192  # columns of a tile; with its rows it fills a part of the first-level cache


class Term(NamedTuple):
    """``scale * up @ down`` over some rows of a matrix, float64.

    Attributes:
        up: [rank, rows], contiguous; rows a multiple of ``height()``, those too many zero.
        down: [rank, columns], contiguous, and 64 values after it that may be read.
        scale: of the product.
    """

    up: Array
    down: Array
    scale: float


class _Term(ctypes.Structure):
    """A ``Term`` as the loop sees it, from the first column wanted on."""

    _fields_ = (
        ("up", ctypes.c_void_p),
        ("down", ctypes.c_void_p),
        ("high", ctypes.c_int64),
        ("rank", ctypes.c_int64),
        ("scale", ctypes.c_double),
    )


class Registers(NamedTuple):
    """How many sums are in registers at once: rows, vectors in a row, values in a vector."""

    rows: int
    vectors: int
    lanes: int
    fused: bool  # whether the processor multiplies and adds in one instruction


# @take widens a line into the tile, @tile adds all products, @give rounds. What lies in the tile beyond the
# rows and columns there are is computed with the rest and never stored.
_LOOP = """
%Term = type {{ ptr, ptr, i64, i64, double }}
define internal void @take(ptr noalias %w, ptr noalias %tile, i64 %n) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{load}  %q = getelementptr double, ptr %tile, i64 %i
  store double %v, ptr %q, align 8
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}}
define internal i64 @give(ptr noalias %tile, ptr noalias %out, i64 %n) {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %wild = phi i64 [ 0, %entry ], [ %wild1, %loop ]
  %q = getelementptr double, ptr %tile, i64 %i
  %v = load double, ptr %q, align 8
{store}  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  ret i64 %wild1
}}
define internal void @tile(ptr %tile, ptr %terms, i64 %count, i64 %row, i64 %col, i64 %columns, i64 %n) {{
entry:
  %none = icmp eq i64 %count, 0
  br i1 %none, label %done, label %term
term:
  %t = phi i64 [ 0, %entry ], [ %t1, %after ]
  %p = getelementptr %Term, ptr %terms, i64 %t
  %up0 = load ptr, ptr %p
  %pd = getelementptr %Term, ptr %p, i64 0, i32 1
  %down0 = load ptr, ptr %pd
  %ph = getelementptr %Term, ptr %p, i64 0, i32 2
  %high = load i64, ptr %ph
  %pr = getelementptr %Term, ptr %p, i64 0, i32 3
  %rank = load i64, ptr %pr
  %ps = getelementptr %Term, ptr %p, i64 0, i32 4
  %scale = load double, ptr %ps
  %up = getelementptr double, ptr %up0, i64 %row
  %down = getelementptr double, ptr %down0, i64 %col
  br label %part
part:
  %j = phi i64 [ 0, %term ], [ %j1, %part ]
  %into = getelementptr double, ptr %tile, i64 %j
  %dj = getelementptr double, ptr %down, i64 %j
  call void @product(ptr %into, ptr %up, i64 %high, ptr %dj, i64 %columns, i64 %rank, double %scale)
  %j1 = add i64 %j, {step}
  %morej = icmp slt i64 %j1, %n
  br i1 %morej, label %part, label %after
after:
  %t1 = add i64 %t, 1
  %moret = icmp slt i64 %t1, %count
  br i1 %moret, label %term, label %done
done:
  ret void
}}
define i64 @add(ptr %w, ptr %out, i64 %rows, i64 %width, i64 %columns, ptr %terms, i64 %count, i64 %panel) {{
entry:
  %tile = alloca [{size} x double], align 64
  call void @llvm.memset.p0.i64(ptr align 64 %tile, i8 0, i64 {bytes}, i1 false)
  br label %panels
panels:
  %c0 = phi i64 [ 0, %entry ], [ %c1, %panels1 ]
  %wild0 = phi i64 [ 0, %entry ], [ %wild3, %panels1 ]
  %c1 = add i64 %c0, %panel
  %end = call i64 @llvm.smin.i64(i64 %c1, i64 %width)
  br label %strips
strips:
  %r0 = phi i64 [ 0, %panels ], [ %r1, %strips1 ]
  %wild1 = phi i64 [ %wild0, %panels ], [ %wild3, %strips1 ]
  %r1 = add i64 %r0, {rows}
  %rend = call i64 @llvm.smin.i64(i64 %r1, i64 %rows)
  br label %tiles
tiles:
  %c = phi i64 [ %c0, %strips ], [ %cnext, %tiles1 ]
  %wild2 = phi i64 [ %wild1, %strips ], [ %wild3, %tiles1 ]
  %left = sub i64 %end, %c
  %n = call i64 @llvm.smin.i64(i64 %left, i64 {tile})
  br label %takes
takes:
  %r = phi i64 [ %r0, %tiles ], [ %rn, %takes ]
  %at0 = mul i64 %r, %columns
  %at = add i64 %at0, %c
  %pw = getelementptr {item}, ptr %w, i64 %at
  %line = sub i64 %r, %r0
  %lineat = mul i64 %line, {tile}
  %pt = getelementptr double, ptr %tile, i64 %lineat
  call void @take(ptr %pw, ptr %pt, i64 %n)
  %rn = add i64 %r, 1
  %more0 = icmp slt i64 %rn, %rend
  br i1 %more0, label %takes, label %sums
sums:
  call void @tile(ptr %tile, ptr %terms, i64 %count, i64 %r0, i64 %c, i64 %columns, i64 %n)
  br label %gives
gives:
  %g = phi i64 [ %r0, %sums ], [ %gn, %gives ]
  %wild = phi i64 [ %wild2, %sums ], [ %wild3, %gives ]
  %gat0 = mul i64 %g, %columns
  %gat = add i64 %gat0, %c
  %po = getelementptr {item}, ptr %out, i64 %gat
  %gline = sub i64 %g, %r0
  %glineat = mul i64 %gline, {tile}
  %gt = getelementptr double, ptr %tile, i64 %glineat
  %bad = call i64 @give(ptr %gt, ptr %po, i64 %n)
  %wild3 = add i64 %wild, %bad
  %gn = add i64 %g, 1
  %more1 = icmp slt i64 %gn, %rend
  br i1 %more1, label %gives, label %tiles1
tiles1:
  %cnext = add i64 %c, {tile}
  %more2 = icmp slt i64 %cnext, %end
  br i1 %more2, label %tiles, label %strips1
strips1:
  %more3 = icmp slt i64 %r1, %rows
  br i1 %more3, label %strips, label %panels1
panels1:
  %more4 = icmp slt i64 %c1, %width
  br i1 %more4, label %panels, label %done
done:
  ret i64 %wild3
}}
declare i64 @llvm.smin.i64(i64, i64)
declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)
"""


def height() -> int:
    """Return how many rows are computed at once on this processor."""
    return registers().rows


def add(
    weight: Array,
    out: Array,
    columns: int,
    rectangle: tuple[int, int, int],
    terms: Sequence[Term],
    *,
    fused: bool,
) -> int:
    """Write ``weight + term 1 + term 2 + ...`` for a rectangle of a row-major matrix.

    Args:
        weight: stored floats of a dtype that ``knows`` knows, contiguous, from the rectangle's first.
        out: where it goes, of the same dtype.
        columns: of the whole matrix.
        rectangle: rows, first column, width.
        terms: their ``up`` begins at the rectangle's first row.
        fused: whether all products of values of ``up`` and ``down`` are float64s.

    Returns:
        How many of the values written are NaN or infinite.
    """
    rows, first, width = rectangle
    with ONE_AT_A_TIME:
        call, _ = _made(NAMES[weight.dtype], fused and registers().fused)
    given = (_Term * max(1, len(terms)))()
    for place, term in zip(given, terms, strict=False):
        place.up, place.down = address(term.up), address(term.down) + 8 * first
        place.rank, place.high, place.scale = *term.up.shape, term.scale
    ranks = sum(len(term.up) for term in terms)
    panel = max(1, _PANEL // max(1, ranks) // _TILE) * _TILE
    found: int = call(
        *(address(weight), address(out), rows, width, columns),
        *(ctypes.addressof(given), len(terms), panel),
    )
    return found


def upright(up: Array, place: int) -> Array:
    """Return ``up`` as a ``Term`` wants it: on its side, with rows of zeros to fill the last tile.

    Args:
        up: [rows, rank].
        place: of the scratch array it is written to.
    """
    rows, rank = up.shape
    made = scratch(place, rank * (-(-rows // height()) * height()), np.float64).reshape(rank, -1)
    made[:, :rows] = up.T
    made[:, rows:] = 0.0
    return made


@cache
def registers() -> Registers:
    """Return what fits into this processor's registers."""
    features = llvm.get_host_cpu_features()
    if llvm.get_default_triple().startswith(("aarch64", "arm64")):
        return Registers(8, 3, 2, fused=True)
    fused = bool(features.get("fma"))
    if features.get("avx512f"):
        return Registers(8, 3, 8, fused)
    return Registers(4, 3, 4 if features.get("avx") else 2, fused)


@cache
def _made(kind: str, fused: bool) -> tuple[Any, Any]:
    """Compile the loop for a dtype; returns the function, and what keeps its code in memory."""
    held = registers()
    text = _LOOP.format(
        item=ITEMS[kind],
        load=load(kind, "w", "v"),
        store=store(kind, "%v"),
        rows=held.rows,
        tile=_TILE,
        step=held.vectors * held.lanes,
        size=held.rows * _TILE,
        bytes=8 * held.rows * _TILE,
    )
    engine = assemble(helpers() + _product(held, fused) + text)
    numbers = [ctypes.c_int64] * 3
    types = [ctypes.c_void_p] * 2 + numbers + [ctypes.c_void_p] + numbers[:2]
    made = ctypes.CFUNCTYPE(ctypes.c_int64, *types)
    return made(engine.get_function_address("add")), engine


def _product(held: Registers, fused: bool) -> str:
    """Return the innermost loop: sums of a few rows by a few vectors, all in registers."""
    rows, vectors, lanes, _ = held
    vector, cells = f"<{lanes} x double>", [(r, v) for r in range(rows) for v in range(vectors)]
    zero, order = "[ zeroinitializer, %entry ]", f"<{lanes} x i32> zeroinitializer"
    lines = [f"%s{r}_{v} = phi {vector} {zero}, [ %t{r}_{v}, %loop ]" for r, v in cells]
    for v in range(vectors):
        lines.append(f"%pd{v} = getelementptr double, ptr %down, i64 {v * lanes}")
        lines.append(f"%d{v} = load {vector}, ptr %pd{v}, align 8")
    for r in range(rows):
        lines.append(f"%pu{r} = getelementptr double, ptr %up, i64 {r}")
        lines.append(f"%o{r} = load double, ptr %pu{r}, align 8")
        lines.append(f"%i{r} = insertelement {vector} poison, double %o{r}, i64 0")
        lines.append(f"%u{r} = shufflevector {vector} %i{r}, {vector} poison, {order}")
        for v in range(vectors):
            if fused:
                three = f"{vector} %u{r}, {vector} %d{v}, {vector} %s{r}_{v}"
                lines.append(f"%t{r}_{v} = call {vector} @llvm.fma.v{lanes}f64({three})")
            else:
                lines.append(f"%m{r}_{v} = fmul {vector} %u{r}, %d{v}")
                lines.append(f"%t{r}_{v} = fadd {vector} %s{r}_{v}, %m{r}_{v}")
    ends = []
    for r, v in cells:
        at = f"%e{r}_{v}"
        ends.append(f"{at}p = getelementptr double, ptr %tile, i64 {r * _TILE + v * lanes}")
        ends.append(f"{at}w = load {vector}, ptr {at}p, align 8")
        ends.append(f"{at}m = fmul {vector} %t{r}_{v}, %scales")
        ends.append(f"{at}a = fadd {vector} {at}w, {at}m")
        ends.append(f"store {vector} {at}a, ptr {at}p, align 8")
    return _PRODUCT.format(
        vector=vector, lanes=lanes, order=order, sums="\n  ".join(lines), ends="\n  ".join(ends)
    )


_PRODUCT = """
declare {vector} @llvm.fma.v{lanes}f64({vector}, {vector}, {vector})
define internal void @product(ptr noalias %tile, ptr noalias %up0, i64 %high, ptr noalias %down0,
    i64 %columns, i64 %rank, double %scale) {{
entry:
  %scale0 = insertelement {vector} poison, double %scale, i64 0
  %scales = shufflevector {vector} %scale0, {vector} poison, {order}
  br label %loop
loop:
  %k = phi i64 [ 0, %entry ], [ %next, %loop ]
  %up = phi ptr [ %up0, %entry ], [ %upnext, %loop ]
  %down = phi ptr [ %down0, %entry ], [ %downnext, %loop ]
  {sums}
  %upnext = getelementptr double, ptr %up, i64 %high
  %downnext = getelementptr double, ptr %down, i64 %columns
  %next = add i64 %k, 1
  %more = icmp slt i64 %next, %rank
  br i1 %more, label %loop, label %done
done:
  {ends}
  ret void
}}
"""
