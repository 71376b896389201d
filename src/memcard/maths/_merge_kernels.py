"""Merging of changes compiled for this very processor, from stored values to stored values.

    out = base + scale * mix(w1 d1, w2 d2, ...),  di = stored_i - base, or 0 where it is too small

``maths/deltas.py`` says the same with numpy, operation by operation, and no multiplication is fused with
an addition, so the bits are the same; only where two NaNs meet, which one's sign and payload stay is up
to the processor. One loop per combination of dtypes. Measured on one core of a
Zen 4, TIES of two float16 fine-tunes: 1.0 ns a value, where the loops over float64 take 5.

Source: https://llvm.org/docs/LangRef.html
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memcard.core.compiled import ONE_AT_A_TIME, address, assemble
from memcard.maths._stored_text import ITEMS, NAMES, helpers, knows, load, store
from memcard.maths.floats import scratch

__all__ = ["MOST", "Mix", "knows", "merge", "sift"]

MOST = 8  # fine-tunes of one loop
_GROUP = 2048  # keys that are made at once, then looked through while they are in the nearest cache
_ONES = ", ".join(["i64 -1"] * 8)  # less than any key
_KEYS, _PLACES, _FOUND = 31, 32, 33  # numbers of scratch arrays


@dataclass(frozen=True, slots=True)
class Mix:
    """What is done with the changes; each combination is a loop of its own.

    Attributes:
        agreeing: add only the changes that have the sign of the sum of all.
        mean: divide by the sum of the weights of what was added.
    """

    agreeing: bool
    mean: bool


_LOOP = """
define i64 @merge({arguments}, ptr noalias %out, double %whole, double %scale, i64 %n) {{
entry:
  %any = icmp sgt i64 %n, 0
  br i1 %any, label %loop, label %done
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %wild = phi i64 [ 0, %entry ], [ %wild1, %loop ]
{load_base}{body}
  %change = fmul double %mixed, %scale
  %total = fadd double %b, %change
{store}  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  %found = phi i64 [ 0, %entry ], [ %wild1, %loop ]
  ret i64 %found
}}
"""
_TERM = """  %d{k} = fsub double %u{k}, %b
  %bits{k} = bitcast double %d{k} to i64
  %key{k} = and i64 %bits{k}, 9223372036854775807
  %in{k} = icmp sge i64 %key{k}, %cut{k}
  %kept{k} = select i1 %in{k}, double %d{k}, double 0.0
  %v{k} = fmul double %kept{k}, %w{k}
"""
# ``max`` of NaN is NaN, as numpy has it: only what is known not to be positive becomes 0.
_AGREE = """  %minus{k} = fneg double %v{k}
  %t{k} = select i1 %plus, double %v{k}, double %minus{k}
  %against{k} = fcmp ole double %t{k}, 0.0
  %part{k} = select i1 %against{k}, double 0.0, double %t{k}
  %s{k} = fadd double {sum}, %part{k}
  %for{k} = fcmp ogt double %t{k}, 0.0
  %share{k} = select i1 %for{k}, double %w{k}, double 0.0
  %g{k} = fadd double {shares}, %share{k}
"""
_SIGN = """  %minus = fneg double {sum}
  %signed = select i1 %plus, double {sum}, double %minus
  %none = fcmp oeq double {shares}, 0.0
  %by = select i1 %none, double 1.0, double {shares}
"""
# Keys of a group, then eight of them at a time; only where one of them counts, bit by bit. As a rule
# one in fifty does. Behind the last one lie eight that never count.
_SIFT = """
declare i8 @llvm.ctpop.i8(i8)
declare i8 @llvm.cttz.i8(i8, i1)
define internal void @keys(ptr noalias %base, ptr noalias %tuned, ptr noalias %keys, i64 %n) noinline {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
{load_base}{load_tuned}  %d = fsub double %t, %b
  %bits = bitcast double %d to i64
  %key = and i64 %bits, 9223372036854775807
  %po = getelementptr i64, ptr %keys, i64 %i
  store i64 %key, ptr %po, align 8
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %n
  br i1 %more, label %loop, label %done
done:
  ret void
}}
define i64 @sift(ptr noalias %base, ptr noalias %tuned, ptr noalias %keys, ptr noalias %places,
                 ptr noalias %found, ptr noalias %above, i64 %low, i64 %high, i64 %n) {{
entry:
  %l0 = insertelement <8 x i64> poison, i64 %low, i64 0
  %l = shufflevector <8 x i64> %l0, <8 x i64> poison, <8 x i32> zeroinitializer
  %h0 = insertelement <8 x i64> poison, i64 %high, i64 0
  %h = shufflevector <8 x i64> %h0, <8 x i64> poison, <8 x i32> zeroinitializer
  %any = icmp sgt i64 %n, 0
  br i1 %any, label %group, label %done
group:
  %start = phi i64 [ 0, %entry ], [ %start1, %end ]
  %atg = phi i64 [ 0, %entry ], [ %at1, %end ]
  %upg = phi i64 [ 0, %entry ], [ %up1, %end ]
  %left = sub i64 %n, %start
  %short = icmp slt i64 %left, {group}
  %m = select i1 %short, i64 %left, i64 {group}
  %gb = getelementptr {base_item}, ptr %base, i64 %start
  %gt = getelementptr {item}, ptr %tuned, i64 %start
  call void @keys(ptr %gb, ptr %gt, ptr %keys, i64 %m)
  %pad = getelementptr i64, ptr %keys, i64 %m
  store <8 x i64> <{ones}>, ptr %pad, align 8
  br label %loop
loop:
  %i = phi i64 [ 0, %group ], [ %next, %tail ]
  %at = phi i64 [ %atg, %group ], [ %at1, %tail ]
  %up = phi i64 [ %upg, %group ], [ %up1, %tail ]
  %pk = getelementptr i64, ptr %keys, i64 %i
  %k = load <8 x i64>, ptr %pk, align 8
  %ge = icmp sge <8 x i64> %k, %l
  %gt8 = icmp sgt <8 x i64> %k, %h
  %in = xor <8 x i1> %ge, %gt8
  %mask = bitcast <8 x i1> %in to i8
  %over = bitcast <8 x i1> %gt8 to i8
  %count = call i8 @llvm.ctpop.i8(i8 %over)
  %wide = zext i8 %count to i64
  %up1 = add i64 %up, %wide
  %some = icmp ne i8 %mask, 0
  br i1 %some, label %bits, label %tail
bits:
  %mk = phi i8 [ %mask, %loop ], [ %mk1, %bits ]
  %a = phi i64 [ %at, %loop ], [ %a1, %bits ]
  %bit = call i8 @llvm.cttz.i8(i8 %mk, i1 true)
  %offset = zext i8 %bit to i64
  %index = add i64 %i, %offset
  %pkey = getelementptr i64, ptr %keys, i64 %index
  %key = load i64, ptr %pkey, align 8
  %place = add i64 %start, %index
  %pp = getelementptr i64, ptr %places, i64 %a
  store i64 %place, ptr %pp, align 8
  %pf = getelementptr i64, ptr %found, i64 %a
  store i64 %key, ptr %pf, align 8
  %a1 = add i64 %a, 1
  %less = sub i8 %mk, 1
  %mk1 = and i8 %mk, %less
  %again = icmp ne i8 %mk1, 0
  br i1 %again, label %bits, label %tail
tail:
  %at1 = phi i64 [ %at, %loop ], [ %a1, %bits ]
  %next = add i64 %i, 8
  %more = icmp slt i64 %next, %m
  br i1 %more, label %loop, label %end
end:
  %start1 = add i64 %start, {group}
  %go = icmp slt i64 %start1, %n
  br i1 %go, label %group, label %done
done:
  %total = phi i64 [ 0, %entry ], [ %at1, %end ]
  %ups = phi i64 [ 0, %entry ], [ %up1, %end ]
  store i64 %ups, ptr %above, align 8
  ret i64 %total
}}
"""


def merge(
    parts: Sequence[NDArray[Any]],
    cuts: Sequence[int],
    weights: Sequence[float],
    scale: float,
    out: NDArray[Any],
    how: Mix,
) -> int:
    """Merge a run of fine-tunes into their base.

    Args:
        parts: the base, then 1 to ``MOST`` fine-tunes; contiguous, of dtypes that ``knows`` knows.
        cuts: one per fine-tune: changes are 0 whose magnitude, read as a whole number, is below it.
        weights: one per fine-tune.
        scale: what the merged change is multiplied by.
        out: contiguous, as long as each part.
        how: what is done with the changes.

    Returns:
        How many values of ``out`` are NaN or infinite.
    """
    kinds = tuple(NAMES[p.dtype] for p in parts)
    with ONE_AT_A_TIME:
        call, _ = _made(kinds, NAMES[out.dtype], how)
    places = [address(p) for p in parts]
    found: int = call(*places, *weights, *cuts, address(out), float(sum(weights)), scale, out.size)
    return found


def sift(
    base: NDArray[Any], tuned: NDArray[Any], low: int, high: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Return where the magnitudes of the changes lie in ``low``..``high``, these, and how many lie above.

    Magnitudes of float64 are read as whole numbers. The arrays are good until the next call.
    """
    keys, places, kept = (
        scratch(place, size, np.int64)
        for place, size in ((_KEYS, _GROUP + 8), (_PLACES, base.size), (_FOUND, base.size))
    )
    above = ctypes.c_int64()
    with ONE_AT_A_TIME:
        call, _ = _sifter(NAMES[base.dtype], NAMES[tuned.dtype])
    arrays = [address(a) for a in (base, tuned, keys, places, kept)]
    found: int = call(*arrays, ctypes.addressof(above), low, high, base.size)
    return places[:found], kept[:found], above.value


@cache
def _made(kinds: tuple[str, ...], out: str, how: Mix) -> tuple[Any, Any]:
    """Compile one loop; returns the function, and what keeps its code in memory."""
    base, *tuned = kinds
    numbers = range(len(tuned))
    arguments = ["ptr %base", *(f"ptr %p{k}" for k in numbers)]
    arguments += [f"double %w{k}" for k in numbers] + [f"i64 %cut{k}" for k in numbers]
    text = _LOOP.format(
        arguments=", ".join(arguments),
        load_base=load(base, "base", "b"),
        body=_body(tuned, how),
        store=store(out, "%total"),
    )
    engine = assemble(helpers() + text)
    types: list[Any] = [ctypes.c_void_p] * len(kinds)
    types += [ctypes.c_double] * len(tuned) + [ctypes.c_int64] * len(tuned)
    types += [ctypes.c_void_p, ctypes.c_double, ctypes.c_double, ctypes.c_int64]
    made = ctypes.CFUNCTYPE(ctypes.c_int64, *types)
    return made(engine.get_function_address("merge")), engine


def _body(tuned: Sequence[str], how: Mix) -> str:
    """Return what makes %mixed of the changes of one value."""
    lines = [load(kind, f"p{k}", f"u{k}") + _TERM.format(k=k) for k, kind in enumerate(tuned)]
    last = "%v0"
    if how.agreeing:
        lines.append("  %votes0 = fadd double 0.0, %v0\n")
        last = "%votes0"
    for k in range(1, len(tuned)):
        lines.append(f"  %votes{k} = fadd double {last}, %v{k}\n")
        last = f"%votes{k}"
    by = "%whole"
    if how.agreeing:
        lines.append(f"  %plus = fcmp oge double {last}, 0.0\n")
        total = shares = "0.0"
        for k in range(len(tuned)):
            lines.append(_AGREE.format(k=k, sum=total, shares=shares))
            total, shares = f"%s{k}", f"%g{k}"
        lines.append(_SIGN.format(sum=total, shares=shares))
        last, by = "%signed", "%by"
    lines.append(f"  %mixed = fdiv double {last}, {by if how.mean else '1.0'}")
    return "".join(lines)


@cache
def _sifter(base: str, tuned: str) -> tuple[Any, Any]:
    loads = {"load_base": load(base, "base", "b"), "load_tuned": load(tuned, "tuned", "t")}
    items = {"base_item": ITEMS[base], "item": ITEMS[tuned]}
    engine = assemble(helpers() + _SIFT.format(group=_GROUP, ones=_ONES, **loads, **items))
    types: list[Any] = [ctypes.c_void_p] * 6 + [ctypes.c_int64] * 3
    made = ctypes.CFUNCTYPE(ctypes.c_int64, *types)
    return made(engine.get_function_address("sift")), engine
